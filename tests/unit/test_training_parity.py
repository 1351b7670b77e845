"""The parity gate: 50 prompts through both tokenizers, the first difference shown with both renderings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import CHAT_TEMPLATE
from tiny_hf import MERGES, Pair, make_examples, write_pair
from tiny_spm import write_spm_pair

from lema_local.errors import InputError
from lema_local.students.llamacpp import LlamaStudent
from lema_local.training.bases import Base, open_base
from lema_local.training.parity import CHATS, TEXTS, check_same_tokens, parity_prompts
from lema_local.training.tokens import Encoder

TRAINING_PROMPTS = [example.prompt for example in make_examples(30)]
OTHER_TEMPLATE = CHAT_TEMPLATE.replace("{{ message.content }}", "{{ message.content | trim }}")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("chat"), chat_template=CHAT_TEMPLATE)


@pytest.fixture
def student(chat: Pair) -> Iterator[LlamaStudent]:
    opened = LlamaStudent(chat.gguf_path)
    yield opened
    opened.close()


def _base(pair: Pair) -> Base:
    return open_base(pair.folder)


def test_fifty_prompts_of_every_kind_are_compared(chat: Pair, student: LlamaStudent) -> None:
    assert check_same_tokens(Encoder(_base(chat)), student, TRAINING_PROMPTS) == 50
    assert check_same_tokens(Encoder(_base(chat), "chat"), student, TRAINING_PROMPTS) == 50


def test_prompts_are_distinct_and_hold_what_is_difficult() -> None:
    for has_chat in (False, True):
        prompts = parity_prompts(TRAINING_PROMPTS, has_chat=has_chat)
        assert len({str(prompt) for prompt in prompts}) == 50
        assert prompts[:10] == TRAINING_PROMPTS[:10]
        chats = [prompt for prompt in prompts if not isinstance(prompt, str)]
        assert len(chats) == (len(TEXTS) // 2 + len(CHATS) if has_chat else 0)
    assert any(text.startswith("   ") for text in TEXTS)
    assert any(not text.isascii() for text in TEXTS)
    assert any(text.strip().isdigit() for text in TEXTS)


def test_other_template_is_shown_with_both_renderings(
    chat: Pair, student: LlamaStudent, tmp_path: Path
) -> None:
    other = write_pair(tmp_path, chat_template=OTHER_TEMPLATE)
    with pytest.raises(
        InputError, match=r"(?s)cut a chat into different tokens, first at token \d+"
    ) as caught:
        check_same_tokens(Encoder(_base(other)), student, TRAINING_PROMPTS)
    message = str(caught.value)
    assert "rendered: '<|im_start|>user\\n<|im_end|>" in message
    assert "rendered: '<|im_start|>user\\n <|im_end|>" in message
    assert "prompt:   'user:  '" in message


def test_other_merges_are_noticed(chat: Pair, student: LlamaStudent, tmp_path: Path) -> None:
    other = write_pair(tmp_path, chat_template=CHAT_TEMPLATE, merges=MERGES[1:])
    with pytest.raises(
        InputError, match=r"(?s)cut a prompt into different tokens, first at token 2:.*'   three"
    ):
        check_same_tokens(Encoder(_base(other)), student, TRAINING_PROMPTS)


def test_template_that_only_one_side_refuses_is_noticed(
    chat: Pair, student: LlamaStudent, tmp_path: Path
) -> None:
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
        + CHAT_TEMPLATE
    )
    other = write_pair(tmp_path, chat_template=strict)
    with pytest.raises(InputError, match="its chat template refuses these messages"):
        check_same_tokens(Encoder(_base(other)), student, TRAINING_PROMPTS)
    same = LlamaStudent(other.gguf_path)
    assert check_same_tokens(Encoder(_base(other)), same, TRAINING_PROMPTS) == 50
    same.close()


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_sentencepiece_vocabularies_agree(tmp_path: Path, kind: Any) -> None:
    """With and without the space that Llama's tokenizer puts before a text; Llama's folder and converted GGUF alike."""
    pair = write_spm_pair(tmp_path, kind)
    student = LlamaStudent(pair.gguf_path)
    for source in (pair.folder, pair.gguf_path)[: 2 if kind == "llama" else 1]:
        for style in ("completion", "chat"):
            encoder = Encoder(open_base(source), style)  # type: ignore[arg-type]
            assert check_same_tokens(encoder, student, TRAINING_PROMPTS) == 50
    student.close()
