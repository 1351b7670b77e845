"""The llama.cpp student on tiny random models: right to the token, whatever is decoded together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import CHAT_TEMPLATE, TinyModel, write_adapter, write_model

from lema_local.errors import BackendUnavailable, PromptError
from lema_local.students import open_student
from lema_local.students.base import (
    Completion,
    DecodeSettings,
    EngineOptions,
    Message,
    Refusal,
    SampleRequest,
)
from lema_local.students.endings import MAY_STOP, EndFinder
from lema_local.students.llamacpp import LlamaStudent
from lema_local.students.model import Model

PROMPTS = (
    "Question: what is the answer?",
    "Question: how many apples are there in the big basket?\nAnswer:",
    "Question: é世界 and the sum?",
)
GREEDY = DecodeSettings(temperature=0.0, max_tokens=24)
DRAWN = DecodeSettings(temperature=0.7, max_tokens=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Path:
    return write_model(folder / "tiny.gguf")


@pytest.fixture(scope="module")
def mamba(folder: Path) -> Path:
    return write_model(folder / "mamba.gguf", TinyModel("mamba"))


@pytest.fixture(scope="module")
def qwen(folder: Path) -> Path:
    return write_model(folder / "qwen.gguf", TinyModel("qwen2", chat_template=CHAT_TEMPLATE, kv_heads=4))


@pytest.fixture(scope="module")
def gemma(folder: Path) -> Path:
    return write_model(folder / "gemma.gguf", TinyModel("gemma2", is_tied=True, sliding_window=16))


@contextmanager
def opened(path: Path, *, adapters: Any = (), **options: Any) -> Iterator[LlamaStudent]:
    student = LlamaStudent(path, adapters=adapters, options=EngineOptions(**{"threads": 1, **options}))
    try:
        yield student
    finally:
        student.close()


def requests(prompts: tuple[str, ...] = PROMPTS, samples: int = 4) -> list[SampleRequest]:
    return [
        SampleRequest(f"q{number}", index, prompt, seed=1000 * number + index)
        for number, prompt in enumerate(prompts)
        for index in range(samples)
    ]


def texts(
    student: LlamaStudent, asked: list[SampleRequest], settings: DecodeSettings, *, is_exact: bool = False
) -> list[str]:
    """The completions' texts in the order of the requests."""
    found = {}
    for request, result in student.complete_many(asked, settings, is_exact=is_exact):
        assert isinstance(result, Completion), result
        found[request.question_id, request.sample_index] = result.text
    assert len(found) == len(asked)
    return [found[request.question_id, request.sample_index] for request in asked]


def high_level_text(path: Path, prompt: str, max_tokens: int, ends: set[int]) -> str:
    """What llama-cpp-python's own API writes greedily, one sequence at a time."""
    import llama_cpp

    llama = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, verbose=False)
    tokens: list[int] = []
    for token in llama.generate(llama.tokenize(prompt.encode(), add_bos=False), temp=0.0, repeat_penalty=1.0):
        if token in ends or len(tokens) == max_tokens:
            break
        tokens.append(token)
    text = b"".join(llama._model.detokenize([token]) for token in tokens).decode("utf-8", "ignore")
    llama.close()
    return text


@pytest.mark.parametrize("model", ["tiny", "qwen", "gemma", "mamba"])
def test_greedy_text_equals_the_high_level_api(model: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(model)
    # As that API does it: without flash attention, whose last bits differ and could decide a near-tie.
    with opened(path, slots=1, has_flash_attention=False) as student:
        ends = {token for token in range(student.facts.vocabulary_size) if student._model.is_end(token)}
        own = texts(student, requests(samples=1), GREEDY)
    assert own == [high_level_text(path, prompt, GREEDY.max_tokens, ends) for prompt in PROMPTS]


@pytest.mark.parametrize("is_unified", [True, False])
@pytest.mark.parametrize("model", ["tiny", "gemma", "mamba"])
def test_greedy_samples_drawn_together_equal_the_one_drawn_alone(
    model: str, is_unified: bool, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    with opened(path, slots=1) as student:
        alone = texts(student, requests(samples=1), GREEDY)
    with opened(path, slots=5, is_unified=is_unified) as student:
        together = texts(student, requests(samples=4), GREEDY)
    assert together == [text for text in alone for _ in range(4)]


@pytest.mark.parametrize("is_unified", [True, False])
def test_a_seed_gives_the_same_path_whatever_the_number_of_slots(tiny: Path, is_unified: bool) -> None:
    # What else is in the batch changes the last bits: with 16-bit cells they decide one draw in a few hundred.
    precise = {"kv_type": "f32", "has_flash_attention": False}
    by_slots = []
    for slots in (1, 3, 12):
        with opened(tiny, slots=slots, is_unified=is_unified, **precise) as student:
            by_slots.append(texts(student, requests(), DRAWN, is_exact=True))
    assert by_slots[0] == by_slots[1] == by_slots[2]
    assert len(set(by_slots[0])) > len(PROMPTS), "samples of one question differ"


def test_exact_groups_come_in_order_and_the_same_whatever_came_before(tiny: Path) -> None:
    first, second = requests(PROMPTS[:2]), requests(PROMPTS[1:])
    with opened(tiny, slots=3) as student:
        list(student.complete_many(first, DRAWN, is_exact=True))
        after_another = list(student.complete_many(second, DRAWN, is_exact=True))
    with opened(tiny, slots=3) as student:
        alone = list(student.complete_many(second, DRAWN, is_exact=True))
    assert after_another == alone
    assert [request for request, _ in alone] == second


def test_what_an_earlier_start_chose_is_used_again(tiny: Path) -> None:
    written: list[dict[str, Any]] = []
    options = EngineOptions(slots=3, threads=1)
    first = LlamaStudent(tiny, options=options, on_chosen=written.append)
    list(first.complete_many(requests(), GREEDY))
    first.close()
    second = LlamaStudent(tiny, options=EngineOptions(slots=9), chosen=written[0])
    list(second.complete_many(requests(), GREEDY))
    assert second.describe()["chosen"] == written[0] == first.describe()["chosen"]
    second.close()


def test_a_stop_string_is_found_across_token_borders(tiny: Path) -> None:
    model = Model(tiny)
    tokens = model.tokenize("Step 1: the answer\n\nQuestion: é", add_special=False, parse_special=False)
    pieces = [model.piece(token) for token in tokens.tolist()]
    assert b"\n\n" in pieces, "the stop string below begins inside a token"
    finder = EndFinder(model, ["never there", "\nQuest", "é"])
    found = [count for count in range(1, len(tokens) + 1) if finder.has_stop(tokens[:count])]
    assert b"".join(pieces[: found[0]]).endswith(b"\nQuest"), "as soon as it is complete"
    assert finder.text(tokens[: found[0]]) == ("Step 1: the answer\n", True)
    assert [finder.look_up(token) == MAY_STOP for token in tokens.tolist()] == [
        not {*b"et\xa9"}.isdisjoint(piece) for piece in pieces
    ]
    model.close()


def test_a_path_ends_before_its_first_stop_string(tiny: Path) -> None:
    with opened(tiny) as student:
        whole = texts(student, requests(PROMPTS[1:2], 1), GREEDY)[0]
        for stop in (whole[place : place + 3] for place in range(2, len(whole) - 3)):
            settings = DecodeSettings(temperature=0.0, max_tokens=24, stop=("never there", stop))
            [(_, result)] = student.complete_many(requests(PROMPTS[1:2], 1), settings)
            assert isinstance(result, Completion)
            if result.stop_reason == "stop":
                break
        else:
            pytest.fail("no part of the path could stop it")
    assert result.text == whole[: whole.index(stop)]
    assert result.completion_tokens is not None
    assert result.completion_tokens < 24, "it ended there and then"


def test_text_is_valid_utf8_although_paths_are_cut_inside_characters(tiny: Path) -> None:
    with opened(tiny) as student:
        # The random model writes any bytes: most prefixes end within a character.
        for max_tokens in (1, 2, 3):
            settings = DecodeSettings(temperature=1.5, max_tokens=max_tokens, top_k=0, top_p=1.0)
            for text in texts(student, requests(samples=8), settings):
                assert "�" not in text
                text.encode("utf-8")


def test_the_end_token_ends_a_path_and_is_counted(folder: Path) -> None:
    path = write_model(folder / "ends.gguf", TinyModel(end_bias=3.0))
    settings = DecodeSettings(temperature=1.0, max_tokens=200)
    with opened(path) as student:
        results = [result for _, result in student.complete_many(requests(), settings)]
    ended = [one for one in results if isinstance(one, Completion) and one.stop_reason == "end"]
    assert ended
    assert all(one.completion_tokens and one.completion_tokens <= 200 for one in ended)
    assert all("<|" not in one.text for one in ended)


def test_a_path_of_max_tokens_says_so(tiny: Path) -> None:
    with opened(tiny) as student:
        [(_, result)] = student.complete_many(requests(PROMPTS[:1], 1), GREEDY)
    assert isinstance(result, Completion)
    assert (result.stop_reason, result.completion_tokens) == ("length", 24)
    assert result.prompt_tokens == len(student_tokens(tiny, PROMPTS[0]))


def student_tokens(path: Path, prompt: str) -> list[int]:
    with opened(path) as student:
        return [int(token) for token in student.tokenize(prompt)]


def test_a_prompt_longer_than_the_context_is_refused_and_the_others_go_on(tiny: Path) -> None:
    prompts = (PROMPTS[0], "a long one " * 60, PROMPTS[1])
    with opened(tiny, context_tokens=100) as student:
        results = {
            request.question_id: result
            for request, result in student.complete_many(requests(prompts, 1), GREEDY)
        }
    assert isinstance(results["q0"], Completion)
    assert isinstance(results["q2"], Completion)
    assert isinstance(results["q1"], Refusal)
    assert "the context holds 100" in results["q1"].reason


def test_a_prompt_longer_than_those_looked_at_makes_the_context_grow(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lema_local.students.llamacpp.LOOK_AHEAD", 2)
    prompts = (PROMPTS[0], PROMPTS[1], "a long one " * 30, PROMPTS[2])
    for is_unified in (True, False):
        with opened(tiny, slots=2, is_unified=is_unified) as student:
            grown = texts(student, requests(prompts, 2), GREEDY)
        with opened(tiny, slots=1) as student:
            alone = texts(student, requests(prompts, 1), GREEDY)
        assert grown == [text for text in alone for _ in range(2)]


def test_a_full_cache_makes_paths_wait_and_fails_none(tiny: Path) -> None:
    layout = {
        "slots": 8, "threads": 1, "cells": 256, "sequence_tokens": 512, "batch_tokens": 64,
        "is_unified": True, "has_flash_attention": True, "kv_type": "f16",
    }  # fmt: skip
    settings = DecodeSettings(temperature=0.0, max_tokens=100)
    student = LlamaStudent(tiny, chosen=layout)
    crowded = texts(student, requests(samples=3), settings)
    student.close()
    with opened(tiny, slots=1) as alone:
        assert crowded == [text for text in texts(alone, requests(samples=1), settings) for _ in range(3)]


def test_requests_are_drawn_as_slots_become_free(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lema_local.students.llamacpp.LOOK_AHEAD", 4)
    drawn = 0

    def endless() -> Iterator[SampleRequest]:
        nonlocal drawn
        while True:
            yield SampleRequest(f"q{drawn}", 0, f"{PROMPTS[0]} {drawn}", seed=drawn)
            drawn += 1

    with opened(tiny, slots=2) as student:
        completions = student.complete_many(endless(), GREEDY)
        for _ in range(3):
            next(completions)
        completions.close()  # type: ignore[attr-defined]
        assert drawn < 12
        assert len(texts(student, requests(), GREEDY)) == 12, "an abandoned run leaves a clean engine"


def test_a_shared_prefix_does_not_change_the_text(tiny: Path) -> None:
    shots = "Question: 1 + 1?\nAnswer: the answer is 2.\n\n" * 4
    prompts = tuple(shots + prompt for prompt in PROMPTS)
    with opened(tiny, slots=1) as student:
        alone = [texts(student, requests((prompt,), 1), GREEDY)[0] for prompt in prompts]
    for is_unified in (True, False):
        with opened(tiny, slots=4, is_unified=is_unified) as student:
            shared = texts(student, requests(prompts, 3), GREEDY)
            assert len(student._prefix) > 50, "the shots were recognised as shared"
        assert shared == [text for text in alone for _ in range(3)]


def test_adapters_change_the_text_and_can_be_switched(tiny: Path, folder: Path) -> None:
    adapter = write_adapter(folder / "adapter.gguf", scale=4.0)
    other = write_adapter(folder / "other.gguf", scale=4.0, seed=8)
    asked = requests(samples=1)
    with opened(tiny) as student:
        base = texts(student, asked, GREEDY)
        student.use_adapters([(adapter, 1.0)])
        adapted = texts(student, asked, GREEDY)
        assert student.name == "tiny.gguf+adapter.gguf"
        student.use_adapters([(adapter, 1.0), (other, 0.5)])
        both = texts(student, asked, GREEDY)
        student.use_adapters([(adapter, 0.0)])
        assert texts(student, asked, GREEDY) == base, "a scale of 0 is no adapter"
        student.use_adapters([])
        assert texts(student, asked, GREEDY) == base
    assert adapted != base
    assert both not in (base, adapted)
    with opened(tiny, adapters=((adapter, 1.0),)) as student:
        assert texts(student, asked, GREEDY) == adapted


def test_chat_messages_go_through_the_model_s_own_template(qwen: Path) -> None:
    messages = (Message(role="user", content="1 + 1?"),)
    with opened(qwen) as student:
        assert student.prompt_style == "chat"
        assert student.render(messages) == "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
        tokens = student.tokenize(messages).tolist()
        assert student.token_text(tokens[0]) == "<|im_start|>"
        assert "<|im_start|>" not in map(student.token_text, student.tokenize("<|im_start|>").tolist()), (
            "a question's text cannot smuggle in control tokens"
        )
        [(_, result)] = student.complete_many([SampleRequest("q", 0, messages, 1)], GREEDY)
        assert isinstance(result, Completion)


def test_a_template_cannot_leave_its_sandbox(folder: Path) -> None:
    template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    path = write_model(folder / "evil.gguf", TinyModel(chat_template=template))
    with opened(path) as student, pytest.raises(PromptError, match="template cannot be rendered"):
        student.render((Message(role="user", content="hello"),))


def test_messages_without_a_template_are_an_error(tiny: Path) -> None:
    with opened(tiny) as student:
        assert student.prompt_style == "completion"
        with pytest.raises(PromptError, match="has no chat template"):
            student.render((Message(role="user", content="hello"),))


def test_files_that_are_no_usable_model_are_told_apart(folder: Path, tiny: Path) -> None:
    text = folder / "text.gguf"
    text.write_text("not a model")
    cut = folder / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:200_000])
    vocabulary = write_model(folder / "vocabulary.gguf", has_weights=False)
    adapter = write_adapter(folder / "alone.gguf")
    for path, message in (
        (folder / "missing.gguf", "there is no file"),
        (folder, "there is no file"),
        (text, "is no GGUF file: it begins with b'not '"),
        (cut, "is cut off"),
        (vocabulary, "holds a vocabulary and no weights"),
        (adapter, "has no vocabulary: it is an adapter"),
    ):
        with pytest.raises(BackendUnavailable, match=message) as caught:
            open_student(str(path))
        assert caught.value.exit_code == 2
        assert caught.value.hint


def test_an_adapter_of_another_model_is_refused(tiny: Path, folder: Path) -> None:
    foreign = write_adapter(folder / "foreign.gguf", TinyModel("qwen2"))
    wrong_shape = write_adapter(folder / "wide.gguf", TinyModel(hidden=128))
    for path in (foreign, wrong_shape, tiny):
        with pytest.raises(BackendUnavailable, match=r"cannot be used as an adapter of tiny\.gguf"):
            open_student(str(tiny), adapter=path)


def test_a_model_too_large_for_memory_is_said_before_loading(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lema_local.students.layout.free_memory_bytes", lambda: 100_000)
    with pytest.raises(BackendUnavailable, match="GiB for its weights"):
        open_student(str(tiny))


def test_little_memory_lowers_what_runs_together(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lema_local.students.layout.free_memory_bytes", lambda: 700_000)
    for is_unified in (True, False):
        with opened(tiny, slots=12, is_unified=is_unified) as student:
            assert len(texts(student, requests(), GREEDY)) == 12
            assert student.describe()["chosen"]["cells"] * student.facts.cell_bytes <= 350_000


def test_nothing_is_printed_by_llama_cpp(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(tiny) as student:
        texts(student, requests(), GREEDY)
    with pytest.raises(BackendUnavailable):
        open_student(str(tiny), adapter=tiny)
    assert capfd.readouterr() == ("", "")
