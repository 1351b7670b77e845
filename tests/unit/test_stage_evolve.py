"""Evolution: seeds, votes, copies, and what a teacher's reply becomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from made_records import make_correction

from lema_local.errors import InputError
from lema_local.prompts import load_cot_prompt
from lema_local.quickstart.problems import find_split, generate_questions
from lema_local.records import Correction, EvolvedQuestion, Question
from lema_local.stages.evolve import (
    Draw,
    EvolveSettings,
    draw_seeds,
    evolve_questions,
    reject_copies,
    to_questions,
)
from lema_local.teachers.base import Answered, Failed, RawReply, TeacherRequest

NEW = "A baker fills 4 trays with 6 rolls each and sells 5 of them. How many rolls are left?"


def question(
    name: str = "a", text: str = "Mia has 3 red apples and buys 4 more. How many has she?"
) -> Question:
    return Question(id=name, dataset="gsm8k", split="train", question=text, gold_answer="7")


class Scripted:
    """A desk that says what it is told to: first to the request for a question, then to those for answers."""

    name = "scripted"
    can_write_json = False

    def __init__(
        self, made: str | None, answers: Iterable[str | None] = (), *, reads_gold: bool = False
    ) -> None:
        self.made, self.answers, self.reads_gold = made, list(answers), reads_gold
        self.asked: list[TeacherRequest] = []

    def ask_many(
        self, requests: Iterable[tuple[Any, TeacherRequest]]
    ) -> Iterator[tuple[Any, Answered | Failed]]:
        for item, request in requests:
            self.asked.append(request)
            is_question = request.messages[-1]["content"].endswith("New question:")
            text = self.made if is_question else self.answers[request.attempt]
            yield item, Failed("time-out") if text is None else self._answer(text, request)

    def _answer(self, text: str, request: TeacherRequest) -> Answered:
        reply = RawReply(
            text=text, model="m", finish_reason="stop", prompt_tokens=1, completion_tokens=1, cost_usd=0.01,
            latency_s=0.0,
        )  # fmt: skip
        return Answered(reply, f"key-{len(self.asked)}", is_from_journal=False)


def evolve(desk: Scripted, seed: Question | None = None, **settings: Any) -> EvolvedQuestion:
    draws = [Draw(seed or question(), 0)]
    prompts = load_cot_prompt("evolve-math"), load_cot_prompt("augment-math")
    (record,) = evolve_questions(draws, desk, *prompts, EvolveSettings(**settings))
    return record


def says(answer: str) -> str:
    return f"Step 1: 4 * 6 = 24 rolls.\nStep 2: It is {answer}.\nStep 3: The answer is {answer}."


def test_a_question_with_more_corrections_is_drawn_more_often() -> None:
    questions = [question("a"), question("b"), question("never")]
    accepted = [make_correction("a")] * 9 + [make_correction("b")]
    draws = draw_seeds(questions, accepted, EvolveSettings(questions=2000))
    count = Counter(draw.seed.id for draw in draws)
    assert count["a"] > 8 * count["b"] * 0.8
    assert "never" not in count
    assert len({draw.id for draw in draws}) == 2000
    assert draws == draw_seeds(questions, accepted, EvolveSettings(questions=2000))
    every = draw_seeds(questions, accepted, EvolveSettings(questions=300, seeds="all"))
    assert {draw.seed.id for draw in every} == {"a", "b", "never"}


def test_later_draws_are_numbered_on() -> None:
    made = [evolve(Scripted("", [])).model_copy(update={"id": f"a/evolved-{index}"}) for index in range(3)]
    (draw,) = draw_seeds([question("a")], [make_correction("a")], EvolveSettings(questions=1), made)
    assert draw.id == "a/evolved-3"


@pytest.mark.parametrize("accepted", [[], [make_correction("elsewhere")]])
def test_without_accepted_corrections_there_is_nothing_to_evolve_from(accepted: list[Correction]) -> None:
    with pytest.raises(InputError, match="no accepted corrections"):
        draw_seeds([question()], accepted, EvolveSettings())


def test_questions_with_choices_are_refused() -> None:
    chosen = question().model_copy(update={"choices": ["x", "y"]})
    with pytest.raises(InputError, match="with choices"):
        draw_seeds([chosen], [make_correction("a")], EvolveSettings())


@pytest.mark.parametrize(
    ("answers", "gold", "reason"),
    [
        (["19", "19", "19"], "19", None),
        (["24", "19.0", "19"], "19.0", None),
        (["19", "20", "24"], None, "its 3 answers all differ"),
        (["a lot", "many", "some"], None, "no answer to it is a number"),
        (["19", "many", "some"], None, "its 3 answers all differ"),
    ],
)
def test_the_gold_answer_is_that_of_most_votes(
    answers: list[str], gold: str | None, reason: str | None
) -> None:
    made = evolve(Scripted(NEW, map(says, answers)))
    assert (made.gold_answer, made.reason) == (gold, reason)
    assert made.verdict == ("accepted" if gold else "rejected")
    assert len(made.votes) == 3
    assert made.cost_usd == pytest.approx(0.04)
    if gold == "19":
        assert made.gold_rationale == "4 * 6 = 24 rolls.\nIt is 19."


def test_two_votes_of_three_are_enough_where_a_call_failed_and_one_is_not() -> None:
    assert evolve(Scripted(NEW, [says("19"), None, says("19")])).gold_answer == "19"
    failed = evolve(Scripted(NEW, [says("19"), None, says("20")]))
    assert (failed.verdict, failed.reason) == ("failed", "time-out")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "the reply is empty"),
        ("```\n```", "the reply is empty"),
        ("x" * 3001, "longer than 3000"),
        (None, "time-out"),
    ],
)
def test_a_reply_that_is_no_question_is_not_answered(reply: str | None, reason: str) -> None:
    desk = Scripted(reply)
    made = evolve(desk)
    assert reason in str(made.reason)
    assert len(desk.asked) == 1


@pytest.mark.parametrize("label", ["New question: ", "**New Question:** ", "#Created Question#:\n", '"', ""])
def test_labels_around_a_question_are_taken_off(label: str) -> None:
    made = evolve(Scripted(f"{label}{NEW}", [says("19")] * 3))
    assert made.question == NEW


def test_votes_are_drawn_at_a_temperature_and_the_seed_alone_is_shown() -> None:
    desk = Scripted(NEW, [says("19")] * 3)
    evolve(desk)
    first, *answers = desk.asked
    assert question().question in first.messages[-1]["content"]
    assert {one.temperature for one in desk.asked} == {0.7}
    assert [one.attempt for one in answers] == [0, 1, 2]
    assert all(NEW in one.messages[-1]["content"] for one in answers)
    assert not any(question().question in one.messages[-1]["content"] for one in answers)


def test_the_embedded_problems_make_exact_variants_of_their_own() -> None:
    (raw,) = generate_questions("train", 1)
    seed = Question.model_validate(raw)
    made = evolve(Scripted(None, reads_gold=True), seed)
    assert (made.verdict, made.votes, made.tags["family"]) == ("accepted", [], seed.tags["family"])
    assert made.question != seed.question
    assert find_split(made.question) == "train"
    (again,) = to_questions([made], [seed])
    assert (again.dataset, again.split, again.tags["evolved"]) == ("quickstart", "train", "yes")
    with pytest.raises(InputError, match="embedded problems alone"):
        evolve(Scripted(None, reads_gold=True), question())


def made(name: str, text: str, seed: str = "a") -> EvolvedQuestion:
    return evolve(Scripted(text, [says("19")] * 3)).model_copy(update={"id": name, "seed_id": seed})


def test_near_copies_are_rejected_whatever_they_copy() -> None:
    seed = question()
    test = question(
        "t", "A train runs 60 miles an hour for 3 hours and rests. How far did the train run in all?"
    )
    evolved = [
        made("of-seed", "Mia has 30 red apples and buys 41 more. How many has she?"),
        made("first", NEW),
        made("of-first", NEW.replace("baker", "cook").replace("4", "9")),
        made(
            "of-test",
            "A train runs 70 miles an hour for 4 hours and rests. How far did the train run in all?",
        ),
        made("other", "Ben reads 12 pages a day for a week. How many pages does he read?"),
    ]
    judged = reject_copies(evolved, [seed], [test])
    assert {one.id: one.reason for one in judged} == {
        "of-seed": "it is a near copy of a",
        "first": None,
        "of-first": "it is a near copy of first",
        "of-test": "it is a near copy of t",
        "other": None,
    }
    assert [one.id for one in to_questions(judged, [seed])] == ["first", "other"]
