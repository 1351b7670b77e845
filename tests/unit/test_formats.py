"""Each format: its exact text, and which of the student's tokens carry loss."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from lema_local.errors import InputError
from lema_local.formats import FORMATS, FormatSettings, read_examples
from lema_local.formats.base import choose_phrase
from lema_local.formats.fix_and_continue import PHRASES
from lema_local.formats.restart import PHRASES as RESTART_PHRASES
from lema_local.jsonl import write_records
from lema_local.prompts import load_cot_prompt
from lema_local.records import (
    AnyExample,
    Correction,
    PreferenceExample,
    Question,
    ReasoningPath,
    TrainingExample,
)
from lema_local.stages.build import BuildSettings, build_arms, count_examples, match_arms, remove_contaminated
from lema_local.training.bases import open_base
from lema_local.training.tokens import IGNORED, EncodedExample, Encoder

ASKED = (
    "Please solve the following math problem.\nQuestion: Mia has 3 apples and gets 4. Then they double. How many?\n"
    "Answer: Let's think step by step.\n"
)
WRONG = "Step 2: It is 7 + 2 = 9."
RIGHT = "Step 2: It is 7 * 2 = 14.\nStep 3: The answer is 14."
NAME = "q/s/3/t/0"


def _question(**changes: Any) -> Question:
    facts = {
        "id": "q", "dataset": "own", "split": "train", "gold_answer": "14", "gold_rationale": "Mia has 3 + 4 = 7.",
        "question": "Mia has 3 apples and gets 4. Then they double. How many?",
    }  # fmt: skip
    return Question.model_validate(facts | changes)


def _correction(**changes: Any) -> Correction:
    facts = {
        "question_id": "q", "sample_index": 3, "student": "s", "teacher": "t", "teacher_reported": None,
        "original_steps": ["Mia has 3 + 4 = 7.", "It is 7 + 2 = 9.", "The answer is 9."], "incorrect_step": 2,
        "explanation": "They double.", "corrected_solution": RIGHT, "final_answer": "14", "verdict": "accepted",
        "reason": None, "reply_key": None, "cost_usd": 0.0,
    }  # fmt: skip
    return Correction.model_validate(facts | changes)


def _path(index: int = 0, question_id: str = "q", verdict: str = "correct") -> ReasoningPath:
    text = f"Step 1: Mia has 3 + 4 = 7.\nStep 2: Twice that is {index}.\nStep 3: The answer is 14."
    return ReasoningPath.model_validate({
        "question_id": question_id, "sample_index": index, "seed": 1, "student": "s", "text": text,
        "final_answer": "14", "verdict": verdict, "rule": "numeric", "stop_reason": "end", "prompt_tokens": 1,
        "completion_tokens": 1,
    })  # fmt: skip


def _render(name: Any, correction: Correction | None = None, **settings: Any) -> AnyExample:
    render = FORMATS[name].render
    assert render is not None
    chosen = FormatSettings.model_validate(settings)
    return render(_question(), correction or _correction(), load_cot_prompt(chosen.cot_prompt), chosen)


def _plain(name: Any, correction: Correction | None = None, **settings: Any) -> TrainingExample:
    example = _render(name, correction, **settings)
    assert isinstance(example, TrainingExample)
    return example


def _pair(correction: Correction | None = None, **settings: Any) -> PreferenceExample:
    example = _render("preference", correction, **settings)
    assert isinstance(example, PreferenceExample)
    return example


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    """With the quickstart's student's own tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEMA_HOME", str(tmp_path_factory.mktemp("home")))
        yield Encoder(open_base(str(files("lema_local.quickstart") / "student.gguf")))


def _learnt(encoder: Encoder, encoded: EncodedExample) -> list[str]:
    """Return the text of each run of tokens that carry loss, without the stop token, which has to be the last one."""
    assert encoded.labels[-1] == encoded.input_ids[-1]
    runs: list[list[int]] = [[]]
    for label in encoded.labels[:-1]:
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [encoder.decode(run) for run in runs if run]


# --- exact text ---------------------------------------------------------------------------------------------


def test_fix_and_continue_errs_says_so_and_goes_on() -> None:
    example = _plain("fix-and-continue")
    phrase = choose_phrase(PHRASES, f"{NAME}/fix-and-continue")
    assert example.prompt == ASKED
    assert example.completion == f"Step 1: Mia has 3 + 4 = 7.\n{WRONG}\n{phrase}\n{RIGHT}"
    assert [example.completion[start:end] for start, end in example.masked] == [WRONG]
    assert (example.id, example.kind, example.source["kind"]) == (
        f"{NAME}/fix-and-continue", "fix-and-continue", "correction",
    )  # fmt: skip


def test_restart_errs_says_so_and_begins_anew() -> None:
    example = _plain("restart")
    phrase = choose_phrase(RESTART_PHRASES, f"{NAME}/restart")
    solution = f"Step 1: Mia has 3 + 4 = 7.\n{RIGHT}"
    assert example.completion == f"Step 1: Mia has 3 + 4 = 7.\n{WRONG}\n{phrase}\n{solution}"
    assert [example.completion[start:end] for start, end in example.masked] == [WRONG]
    assert example.prompt == ASKED


@pytest.mark.parametrize("name", ["fix-and-continue", "restart"])
def test_the_wrong_step_is_learnt_where_it_is_asked_for(name: str) -> None:
    masked, learnt = _plain(name), _plain(name, mask_wrong_step=False)
    assert learnt.masked == []
    assert learnt.completion == masked.completion


def test_a_mistake_in_the_first_step_or_in_the_last() -> None:
    first = _plain(
        "fix-and-continue",
        _correction(incorrect_step=1, corrected_solution=RIGHT.replace("Step 2", "Step 1")),
    )
    assert first.completion.startswith("Step 1: Mia has 3 + 4 = 7.\n")
    assert first.masked == [(0, len("Step 1: Mia has 3 + 4 = 7."))]
    last = _plain("restart", _correction(incorrect_step=3, corrected_solution="Step 3: The answer is 14."))
    assert [last.completion[start:end] for start, end in last.masked] == ["Step 3: The answer is 9."]
    assert last.completion.endswith("\nStep 3: The answer is 14.")


def test_prose_is_one_paragraph_with_the_wrong_step_marked() -> None:
    example = _plain("fix-and-continue", layout="prose")
    phrase = choose_phrase(PHRASES, f"{NAME}/fix-and-continue")
    wrong = "It is 7 + 2 = 9."
    assert example.completion == f"Mia has 3 + 4 = 7. {wrong} {phrase} It is 7 * 2 = 14. The answer is 14."
    assert [example.completion[start:end] for start, end in example.masked] == [wrong]


def test_turns_of_phrase_differ_between_examples_and_never_for_one() -> None:
    chosen = [choose_phrase(PHRASES, f"q{number}") for number in range(40)]
    assert set(chosen) == set(PHRASES)
    assert chosen == [choose_phrase(PHRASES, f"q{number}") for number in range(40)]


def test_a_critique_names_the_step_says_why_corrects_and_concludes() -> None:
    example = _plain("critique")
    assert example.prompt == (
        "Please critique whether the following solution to the question is correct.\n\n"
        "Question:\nMia has 3 apples and gets 4. Then they double. How many?\n"
        "Solution:\nStep 1: Mia has 3 + 4 = 7.\nStep 2: It is 7 + 2 = 9.\nStep 3: The answer is 9.\nCritique:\n"
    )
    assert example.completion == (
        f"Step 2 is incorrect.\nThey double.\nCorrect Solution:\n{RIGHT}\nCritique Conclusion: Incorrect"
    )
    short = _plain("critique", leave_out=["solution"]).completion
    assert short == "Step 2 is incorrect.\nThey double.\nCritique Conclusion: Incorrect"


def test_a_right_path_has_no_mistake() -> None:
    render = FORMATS["critique"].render_right
    assert render is not None
    example = render(_question(), _path(14), FormatSettings())
    assert (
        "Solution:\nStep 1: Mia has 3 + 4 = 7.\nStep 2: Twice that is 14.\nStep 3: The answer is 14.\nCritique:\n"
        in (example.prompt)
    )
    assert example.completion == "There is no mistake: every step is correct.\nCritique Conclusion: Correct"
    assert example.source["kind"] == "right_path"


def test_a_preference_goes_two_ways_from_the_first_wrong_step_on() -> None:
    example = _pair()
    assert example.prompt == f"{ASKED}Step 1: Mia has 3 + 4 = 7.\n"
    assert example.prompt[: example.answer_start] == ASKED
    assert (example.chosen, example.rejected) == (RIGHT, f"{WRONG}\nStep 3: The answer is 9.")
    first = _pair(_correction(incorrect_step=1))
    assert first.prompt == ASKED
    assert first.rejected.startswith("Step 1: Mia has")
    prose = _pair(layout="prose")
    assert prose.prompt == f"{ASKED}Mia has 3 + 4 = 7."
    assert (prose.chosen, prose.rejected) == (
        " It is 7 * 2 = 14. The answer is 14.",
        " It is 7 + 2 = 9. The answer is 9.",
    )


# --- which tokens carry loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["numbered", "prose"])
@pytest.mark.parametrize("name", ["fix-and-continue", "restart"])
def test_the_masked_step_carries_no_loss_and_all_else_does(name: str, layout: str, encoder: Encoder) -> None:
    example = _plain(name, layout=layout)
    ((start, end),) = example.masked
    before, after = _learnt(encoder, encoder.encode(example))
    assert before.rstrip() == example.completion[:start].rstrip()
    assert after.lstrip() == example.completion[end:].lstrip()
    encoded = encoder.encode(example)
    assert (
        encoder.decode([encoded.input_ids[at] for at in sorted(encoded.masked)]).strip()
        == example.completion[start:end]
    )


@pytest.mark.parametrize("name", ["cot", "lema", "fix-and-continue", "restart", "critique"])
def test_all_of_an_unmasked_completion_carries_loss(name: str, encoder: Encoder) -> None:
    example = _plain(name, mask_wrong_step=False)
    assert _learnt(encoder, encoder.encode(example)) == [example.completion]


def test_of_a_pair_only_the_two_ways_carry_loss(encoder: Encoder) -> None:
    pair = encoder.encode_pair(_pair())
    chosen, rejected = pair.chosen, pair.rejected
    assert _learnt(encoder, chosen) == [RIGHT]
    assert _learnt(encoder, rejected) == [f"{WRONG}\nStep 3: The answer is 9."]
    begun = chosen.labels.index(next(label for label in chosen.labels if label != IGNORED))
    assert encoder.decode(chosen.input_ids[:begun]) == _pair().prompt
    assert chosen.input_ids[:begun] == rejected.input_ids[:begun]
    assert pair.trained_tokens == sum(label != IGNORED for _, labels in pair.rows for label in labels)


def test_in_a_chat_the_right_steps_are_the_students_own(encoder: Encoder, tmp_path: Path) -> None:
    base = open_base(str(files("lema_local.quickstart") / "student.gguf"))
    plain = Encoder(base)
    plain.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}<assistant>"
    )
    plain.tokenizer.save_pretrained(tmp_path)
    chat = Encoder(type(base)(tmp_path, base.facts), "chat")
    pair = chat.encode_pair(_pair())
    text = chat.decode(pair.chosen.input_ids)
    assert text.startswith(f"<user>{ASKED}<end><assistant>Step 1: Mia has 3 + 4 = 7.\nStep 2: It is 7 * 2")
    assert _learnt(chat, pair.chosen) == [RIGHT]
    assert _learnt(chat, chat.encode(_plain("restart")))[0].rstrip() == "Step 1: Mia has 3 + 4 = 7."


def test_a_token_that_holds_a_masked_character_carries_no_loss(encoder: Encoder) -> None:
    example = _plain("cot").model_copy(update={"masked": [(3, 4)]})  # within "Step"
    encoded = encoder.encode(example)
    (at,) = encoded.masked
    assert "p" in encoder.decode([encoded.input_ids[at]])
    assert encoded.trained_tokens == sum(label != IGNORED for label in encoded.labels)


# --- arms ---------------------------------------------------------------------------------------------------

ALL = ("cot", "lema", "fix-and-continue", "restart", "critique", "preference")


def _build(settings: BuildSettings | None = None, paths: tuple[ReasoningPath, ...] = (_path(),)) -> Any:
    return build_arms([_question()], [_correction()], [], settings or BuildSettings(), ALL, paths)


def test_every_arm_has_the_plain_examples_and_one_for_each_correction() -> None:
    built = _build()
    assert {arm: len(some) for arm, some in built.items()} == {
        "cot": 2, "lema": 2, "fix-and-continue": 2, "restart": 2, "critique": 3, "preference": 1,
    }  # fmt: skip
    assert all(built[arm][0] == built["cot"][0] for arm in ALL[:5])
    counts = count_examples(built)
    assert counts["critique"]["right_path"] == 1
    assert counts["preference"]["correction"] == 1


def test_right_paths_are_as_many_as_corrections_from_many_questions_or_as_the_recipe_says() -> None:
    questions = [_question(id=f"q{number}") for number in range(4)]
    corrections = [_correction(question_id=f"q{number}") for number in range(3)]
    paths = [_path(index, f"q{number}") for number in range(4) for index in range(5)]
    wrong = [_path(9, f"q{number}", "wrong") for number in range(4)]

    def right(count: int | None) -> list[AnyExample]:
        settings = BuildSettings(right_paths=count)
        built = build_arms(questions, corrections, [], settings, ("critique",), [*wrong, *paths])
        return [one for one in built["critique"] if one.source["kind"] == "right_path"]

    assert len({one.question_id for one in right(None)}) == len(right(None)) == 3
    assert len({one.question_id for one in right(4)}) == 4
    assert len(right(100)) == 20
    assert right(0) == []
    assert right(6) == right(6)


def test_a_format_that_needs_right_paths_where_none_were_kept_is_refused() -> None:
    with pytest.raises(InputError, match="critique needs right paths, and none were kept"):
        _build(paths=(_path(verdict="wrong"),))
    assert len(_build(BuildSettings(right_paths=0), paths=())["critique"]) == 2


def test_pairs_without_a_correction_are_refused() -> None:
    with pytest.raises(InputError, match="nothing to train preference on, since no correction was accepted"):
        build_arms([_question()], [], [], BuildSettings(), ("cot", "preference"))


def test_all_arms_but_the_pairs_are_matched_in_length() -> None:
    questions = [_question(id=f"q{number}") for number in range(20)]
    corrections = [_correction(question_id=f"q{number}") for number in range(20)]
    paths = [_path(1, f"q{number}") for number in range(20)]
    settings = BuildSettings(match="characters")
    built = build_arms(questions, corrections, [], settings, ALL, paths)
    counts = count_examples(match_arms(built, settings))
    learnt = {
        arm: sum(
            len(one.completion) - sum(end - start for start, end in one.masked)
            for one in match_arms(built, settings)[arm]
            if isinstance(one, TrainingExample)
        )
        for arm in ALL[:5]
    }
    assert max(learnt.values()) - min(learnt.values()) < 300
    assert counts["preference"]["repeated"] == 0


def test_pairs_have_a_certificate_and_lose_contaminated_questions() -> None:
    other = _question(id="r", question="How many are three and four, doubled?")
    test = [other.model_copy(update={"id": "t", "split": "test"})]
    corrections = [_correction(), _correction(question_id="r")]
    built = build_arms([_question(), other], corrections, [], BuildSettings(), ("cot", "preference"))
    kept, certificates = remove_contaminated(built, [_question(), other], test, BuildSettings())
    assert [one.question_id for one in kept["preference"]] == ["q"]
    assert certificates["preference"].removed_examples == 1


def test_a_file_of_pairs_is_known_by_its_first_line(tmp_path: Path) -> None:
    built = _build()
    for arm in ("cot", "restart", "preference"):
        write_records(tmp_path / arm, built[arm])
        assert list(read_examples(tmp_path / arm)) == built[arm]
    with pytest.raises(InputError, match="absent"):
        read_examples(tmp_path / "absent")
