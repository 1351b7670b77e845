"""Examples as token ids: the border between prompt and completion, BOS, the stop token, nothing lost silently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_hf import SPECIAL_TOKENS, Pair, make_examples, vocabulary, write_pair

from lema_local.errors import InputError
from lema_local.records import TrainingExample
from lema_local.students.model import Model
from lema_local.training.bases import open_base
from lema_local.training.tokens import Encoder, check_labels, encode_examples

EOS = vocabulary().index("<|endoftext|>")
ODD_PROMPTS = [
    "Question: 12 and 7?\nAnswer:\n",
    "  two leading spaces",
    "trailing newline pair\n\n",
    "digits 1234567890 and 3.14",
    "naïve café \u2013 “quoted” 数学 🙂 e\u0301",
    "\ttab\r\nwindows line",
    "a <|im_end|> in the text",
    "",
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def encoder(pair: Pair) -> Encoder:
    return Encoder(open_base(pair.folder))


@pytest.fixture
def model(pair: Pair) -> Iterator[Model]:
    opened = Model(pair.gguf_path, is_vocabulary_only=True)
    yield opened
    opened.close()


def _example(prompt: str, completion: str) -> TrainingExample:
    return TrainingExample(
        id="one", kind="cot", prompt=prompt, completion=completion, question_id="q", source={"kind": "gold"}
    )


def test_loss_is_on_the_completion_and_its_stop_token(encoder: Encoder) -> None:
    encoded = encoder.encode(_example("Question: 1?\n", "Step 1: the answer."))
    assert encoded.input_ids[-1] == EOS
    assert encoded.labels[: encoded.prompt_length] == [-100] * encoded.prompt_length
    assert encoded.labels[encoded.prompt_length :] == encoded.input_ids[encoded.prompt_length :]
    assert encoder.decode(encoded.input_ids[encoded.prompt_length :]) == "Step 1: the answer."


@pytest.mark.parametrize(
    ("prompt", "completion"), [("a\n", "\nb"), ("Incorrect Step:", " Step 3."), ("x", "the")]
)
def test_prompt_is_cut_as_it_is_at_inference(encoder: Encoder, prompt: str, completion: str) -> None:
    encoded = encoder.encode(_example(prompt, completion))
    assert encoded.input_ids[: encoded.prompt_length] == encoder.prompt_ids(prompt)
    assert encoder.decode(encoded.input_ids) == prompt + completion


def test_completion_is_cut_as_in_running_text_where_the_border_holds(encoder: Encoder) -> None:
    encoded = encoder.encode(_example("in:", " the tin"))
    assert encoded.input_ids[:-1] == encoder.prompt_ids("in: the tin")


def test_name_of_a_special_token_in_a_text_is_text(encoder: Encoder) -> None:
    encoded = encoder.encode(_example("a <|im_end|>\n", "b <|endoftext|> c"))
    special = {vocabulary().index(token) for token in SPECIAL_TOKENS}
    assert [token for token in encoded.input_ids if token in special] == [EOS]


@pytest.mark.parametrize("prompt", ODD_PROMPTS)
def test_prompts_are_cut_as_llama_cpp_cuts_them(encoder: Encoder, model: Model, prompt: str) -> None:
    theirs = model.tokenize(prompt, add_special=True, parse_special=False)
    assert encoder.prompt_ids(prompt) == [int(token) for token in theirs]


def test_bos_stands_first_where_the_gguf_says_so(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, add_bos=True)
    model = Model(pair.gguf_path, is_vocabulary_only=True)
    for base in (open_base(pair.folder), open_base(pair.gguf_path)):
        ids = Encoder(base).prompt_ids("the step")
        assert ids[0] == EOS
        assert ids == [
            int(token) for token in model.tokenize("the step", add_special=True, parse_special=False)
        ]
    model.close()


def test_too_long_examples_are_left_out_by_id_and_never_cut(encoder: Encoder) -> None:
    examples = make_examples(12)
    lengths = [len(encoder.encode(example).input_ids) for example in examples]
    limit = sorted(lengths)[6]
    fitting, left_out = encode_examples(encoder, examples, limit)
    assert [len(example.input_ids) for example in fitting] == [
        length for length in lengths if length <= limit
    ]
    assert left_out == [
        example.id for example, length in zip(examples, lengths, strict=True) if length > limit
    ]


def test_no_example_that_fits_is_an_error(encoder: Encoder) -> None:
    with pytest.raises(
        InputError, match=r"no training example fits into 8 tokens \(there are 3, the longest has"
    ):
        encode_examples(encoder, make_examples(3), 8)


def test_empty_completion_is_an_error_with_the_id(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"1 training example.* have no completion.*: one"):
        encode_examples(encoder, [*make_examples(2), _example("a", " \n")], 100)


def test_rows_that_cannot_teach_are_named() -> None:
    rows = [("good", [-100, 5, EOS]), ("masked", [-100, -100]), ("endless", [-100, 5]), ("hidden", [5, -100])]
    with pytest.raises(
        InputError, match=r"no trained token: masked; the stop token is not trained.*: endless, hidden"
    ):
        check_labels(rows, [EOS])


def test_chat_style_needs_a_template(pair: Pair) -> None:
    with pytest.raises(InputError, match="has no chat template"):
        Encoder(open_base(pair.folder), "chat")


def test_chat_style_renders_the_prompt_and_keeps_the_completion_text(pair: Pair, tmp_path: Path) -> None:
    base = open_base(pair.folder)
    plain = Encoder(base)
    plain.tokenizer.chat_template = "{% for m in messages %}<|fim|>{{ m.content }}<|im_end|>{% endfor %}"
    folder = tmp_path / "chat"
    plain.tokenizer.save_pretrained(folder)
    encoder = Encoder(type(base)(folder, base.facts), "chat")
    encoded = encoder.encode(_example("the in", "\nthe <|im_end|>"))
    im_end, fim = vocabulary().index("<|im_end|>"), vocabulary().index("<|fim|>")
    assert encoded.input_ids[0] == fim
    assert encoded.input_ids[encoded.prompt_length - 1] == im_end
    assert im_end not in encoded.input_ids[encoded.prompt_length :]
    assert encoder.decode(encoded.input_ids[encoded.prompt_length :]) == "\nthe <|im_end|>"
    assert encoder.student_prompt("hi") == ({"role": "user", "content": "hi"},)
