"""Evolution: let a teacher write new questions after those that corrections could be made for.

Reads   accepted corrections   questions too easy have none, questions too hard have no right ones
        training questions
Writes  evolved questions      accepted, rejected with a reason, or failed with the last error; their votes with them

Source: arXiv 2310.20689, sections 2.2 and 3.2: seeds drawn by bootstrap from the questions of the corrections, gold by
the majority of three answers, dropped where all three differ.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from lema_local.answers import cut_at_next_question, extract_answer, vote_key
from lema_local.answers.numbers import parse_number
from lema_local.contamination import KINDS, Kind, Text, find_hits, mask_numbers, split_words
from lema_local.errors import InputError
from lema_local.quickstart.problems import DATASET, generate_variant
from lema_local.records import Correction, EvolvedQuestion, Question, Vote
from lema_local.steps import split_steps, states_answer
from lema_local.teachers.asking import QuestionPrompt, draw_request
from lema_local.teachers.base import Answered, Desk, Failed, TeacherRequest
from lema_local.teachers.settings import AS_THE_STAGE_SAYS, CallBlock, TeacherSettings

MAX_CHARACTERS = 3000
"""Of a new question; a longer one is no question."""
NEAR_COPY = 0.6
"""Share of word trigrams that two questions have in common (Jaccard) from which on they are near copies.

Numbers do not count. 13 of GSM8K's 7,473 training questions have an earlier one that is so near; of the embedded
problems' own variants nine in ten are further from their seed."""
COPY = "it is a near copy of"
"""A reason for rejection, before the other question's id."""
_LABEL = re.compile(r"^\W*(?:(?:new|created|next)\s+question|question)\W*?:\W*", re.IGNORECASE)


class EvolveSettings(CallBlock):
    """How many new questions, after which ones, and how the teacher is asked."""

    questions: int = Field(default=1000, ge=1)
    """Asked for; fewer are kept. The paper asked GPT-4 for 10,000."""
    seeds: Literal["corrections", "all"] = "corrections"
    """corrections: drawn with replacement from the questions of the accepted corrections, so that a question with more
    of them is drawn more often. all: from all training questions, the paper's general evolution."""
    votes: int = Field(default=3, ge=1)
    """Answers to each new question; its gold is what more than one of them says. 1: the only one is trusted."""
    temperature: float | None = Field(default=0.7, ge=0, le=2)
    """Of the new questions and of their answers; at 0 all votes would be the same."""
    seed: int = 0
    """Of the draw of the seed questions."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A seed question, and which of its draws this is."""

    seed: Question
    index: int
    """0-based."""

    @property
    def id(self) -> str:
        """Of the question that is to be made."""
        return f"{self.seed.id}/evolved-{self.index}"


def draw_seeds(
    questions: Sequence[Question],
    accepted: Iterable[Correction],
    settings: EvolveSettings,
    earlier: Iterable[EvolvedQuestion] = (),
) -> list[Draw]:
    """Return the seed questions, drawn with replacement.

    Args:
        questions: To draw from.
        accepted: Corrections; those of other questions are passed over.
        settings: How many, and from which of them.
        earlier: Made in earlier rounds, whatever came of them: further draws of a seed are numbered on.

    Raises:
        InputError: If there is nothing to draw from, or a question of the pool has choices: what is made is answered by
            a number.
    """
    by_id = {question.id: question for question in questions}
    if settings.seeds == "all":
        pool = list(by_id.values())
    else:
        pool = [by_id[one.question_id] for one in accepted if one.question_id in by_id]
        if not pool:
            raise InputError(
                "there are no accepted corrections of these questions to evolve from",
                hint="correct mistakes first, or take all questions for seeds (evolve.seeds: all, --seeds all)",
            )
    if not pool:
        raise InputError("there are no questions to evolve from")
    if chosen := next((one for one in pool if one.choices), None):
        raise InputError(
            f"{chosen.id} is a question with choices; new questions are answered by a number",
            hint="evolve questions of mathematics",
        )
    drawn = Counter(one.seed_id for one in earlier)
    draws = []
    for seed in random.Random(f"evolve/{settings.seed}/{drawn.total()}").choices(pool, k=settings.questions):
        draws.append(Draw(seed, drawn[seed.id]))
        drawn[seed.id] += 1
    return draws


def evolve_questions(
    draws: Sequence[Draw],
    desk: Desk,
    prompt: QuestionPrompt,
    answer_prompt: QuestionPrompt,
    settings: EvolveSettings,
    teacher: TeacherSettings = AS_THE_STAGE_SAYS,
) -> Iterator[EvolvedQuestion]:
    """Yield a new question for each draw: first all are made, then all are answered, as replies come.

    Whether they copy each other is not judged here: `reject_copies` looks at all of them together.

    Raises:
        InputError: If the teacher only reads gold answers, and a seed is none of the embedded problems.
        BudgetReached: Questions already yielded stay valid; replies stand in the journal.
        BackendError: If the teacher does not answer any more; likewise.
    """
    if desk.reads_gold:
        yield from (_vary(draw, desk.name) for draw in draws)
        return
    made: list[tuple[Draw, EvolvedQuestion]] = []
    temperature = settings.temperature
    requests = (
        (draw, draw_request(draw.seed, draw.index, prompt, settings, teacher, temperature=temperature))
        for draw in draws
    )
    for draw, outcome in desk.ask_many(requests):
        record = _read_question(draw, outcome, desk.name)
        if record.verdict == "accepted":
            made.append((draw, record))
        else:
            yield record
    answered: dict[str, dict[int, Answered | Failed]] = {}
    asked = _answer_requests(made, answer_prompt, settings, teacher)
    for (record, attempt), outcome in desk.ask_many(asked):
        of_question = answered.setdefault(record.id, {})
        of_question[attempt] = outcome
        if len(of_question) == settings.votes:
            yield _count_votes(record, [one for _, one in sorted(answered.pop(record.id).items())])


def _answer_requests(
    made: Iterable[tuple[Draw, EvolvedQuestion]],
    prompt: QuestionPrompt,
    settings: EvolveSettings,
    teacher: TeacherSettings,
) -> Iterator[tuple[tuple[EvolvedQuestion, int], TeacherRequest]]:
    for draw, record in made:
        asked = draw.seed.model_copy(update={"question": record.question})
        for attempt in range(settings.votes):
            request = draw_request(
                asked, attempt, prompt, settings, teacher, temperature=settings.temperature
            )
            yield (record, attempt), request


def _vary(draw: Draw, teacher: str) -> EvolvedQuestion:
    """Return a variant that the embedded problems' own generator makes: its answer is exact."""
    if draw.seed.dataset != DATASET:
        raise InputError(
            f"the teacher {teacher} makes new questions of the embedded problems alone, not of {draw.seed.id}",
            hint="choose a teacher that writes, such as --teacher gpt-4o",
        )
    made = generate_variant(draw.seed.model_dump(), draw.index)
    return _begin(draw, teacher).model_copy(
        update={
            **{key: made[key] for key in ("question", "gold_answer", "gold_rationale", "tags")},
            "verdict": "accepted",
        }
    )


def _begin(draw: Draw, teacher: str) -> EvolvedQuestion:
    return EvolvedQuestion(
        id=draw.id,
        seed_id=draw.seed.id,
        teacher=teacher,
        teacher_reported=None,
        question="",
        votes=[],
        gold_answer=None,
        gold_rationale=None,
        verdict="failed",
        reason=None,
        reply_key=None,
        cost_usd=0.0,
    )


def _read_question(draw: Draw, outcome: Answered | Failed, teacher: str) -> EvolvedQuestion:
    """Return the question that a reply is, not answered yet."""
    record = _begin(draw, teacher)
    if isinstance(outcome, Failed):
        return record.model_copy(update={"reason": outcome.reason})
    reply = outcome.reply
    text = _LABEL.sub("", reply.text.strip().strip('`"').strip()).strip()
    reason = None
    if not text:
        reason = "the reply is empty"
    elif reply.finish_reason == "length":
        reason = "the reply was cut"
    elif len(text) > MAX_CHARACTERS:
        reason = f"it is longer than {MAX_CHARACTERS} characters"
    return record.model_copy(
        update={
            "teacher_reported": reply.model,
            "question": text[:MAX_CHARACTERS],
            "verdict": "rejected" if reason else "accepted",
            "reason": reason,
            "reply_key": outcome.reply_key,
            "cost_usd": reply.cost_usd,
        }
    )


def _count_votes(record: EvolvedQuestion, outcomes: Sequence[Answered | Failed]) -> EvolvedQuestion:
    """Return the question with the answer that most votes give; rejected where no answer has a majority."""
    texts = ["" if isinstance(one, Failed) else cut_at_next_question(one.reply.text) for one in outcomes]
    answers = [extract_answer(text) if text else None for text in texts]
    keys = [vote_key(one) if one and parse_number(one) is not None else None for one in answers]
    counted = Counter(key for key in keys if key is not None)
    best, count = counted.most_common(1)[0] if counted else (None, 0)
    told: dict[str, object] = {
        "votes": [
            Vote(answer=answer, reply_key=None if isinstance(one, Failed) else one.reply_key)
            for answer, one in zip(answers, outcomes, strict=True)
        ],
        "cost_usd": record.cost_usd
        + sum(one.reply.cost_usd for one in outcomes if isinstance(one, Answered)),
    }
    if best is not None and count >= min(2, len(outcomes)):
        place = keys.index(best)
        steps = [one for one in split_steps(texts[place]) if not states_answer(one)]
        told |= {"gold_answer": answers[place], "gold_rationale": "\n".join(steps) or None}
    elif failed := next((one for one in outcomes if isinstance(one, Failed)), None):
        told |= {"verdict": "failed", "reason": failed.reason}
    else:
        reason = "no answer to it is a number" if best is None else f"its {len(outcomes)} answers all differ"
        told |= {"verdict": "rejected", "reason": reason}
    return record.model_copy(update=told)


# --- copies -------------------------------------------------------------------------------------------------


class _Index:
    """Finds near copies of a text among those that were added."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._sizes: list[int] = []
        self._places: dict[tuple[str, ...], list[int]] = {}

    def add(self, name: str, grams: frozenset[tuple[str, ...]]) -> None:
        for gram in grams:
            self._places.setdefault(gram, []).append(len(self._ids))
        self._ids.append(name)
        self._sizes.append(len(grams))

    def find(self, grams: frozenset[tuple[str, ...]]) -> str | None:
        """Return what has at least `NEAR_COPY` of all word trigrams in common, the nearest one; None: nothing."""
        shared = Counter(place for gram in grams for place in self._places.get(gram, ()))
        alike = {place: count / (len(grams) + self._sizes[place] - count) for place, count in shared.items()}
        nearest = max(alike, key=lambda place: alike[place], default=None)
        return None if nearest is None or alike[nearest] < NEAR_COPY else self._ids[nearest]


def reject_copies(
    evolved: Iterable[EvolvedQuestion],
    questions: Iterable[Question],
    test: Sequence[Question],
    kinds: Sequence[Kind] = KINDS,
) -> list[EvolvedQuestion]:
    """Return the questions with near copies rejected: of seeds and other questions, of each other, of test questions.

    Args:
        evolved: In the order of the draws: of two near copies the first is kept.
        questions: Trained on already, the seeds among them.
        test: Of all test sets in use.
        kinds: Overlaps with a test question for which one is rejected (`lema_local.contamination`); a test
            question's near copies are rejected in any case.
    """
    evolved = list(evolved)
    texts = (Text(one.id, "question", one.question) for one in evolved)
    hits = {hit.question_id: hit.test_id for hit in find_hits(texts, test) if hit.kind in kinds}
    index = _Index()
    for question in (*questions, *test):
        index.add(question.id, _trigrams(question.question))
    judged = []
    for one in evolved:
        if one.verdict == "accepted":
            grams = _trigrams(one.question)
            if (of := hits.get(one.id) or index.find(grams)) is not None:
                one = one.model_copy(update={"verdict": "rejected", "reason": f"{COPY} {of}"})
            else:
                index.add(one.id, grams)
        judged.append(one)
    return judged


def _trigrams(text: str) -> frozenset[tuple[str, ...]]:
    """Return three words in a row each, numbers masked: another number makes no other question."""
    words = mask_numbers(split_words(text)).split()
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset([tuple(words)])


def to_questions(evolved: Iterable[EvolvedQuestion], seeds: Iterable[Question]) -> list[Question]:
    """Return the accepted ones as questions of their seeds' dataset and split, answered by the same rules."""
    by_id = {question.id: question for question in seeds}
    return [
        Question(
            id=one.id,
            dataset=by_id[one.seed_id].dataset,
            split=by_id[one.seed_id].split,
            question=one.question,
            gold_answer=one.gold_answer,
            gold_rationale=one.gold_rationale,
            tags={**one.tags, "evolved": "yes"},
        )
        for one in evolved
        if one.verdict == "accepted" and one.gold_answer is not None
    ]
