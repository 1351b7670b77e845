"""Stage 1: sample reasoning paths from the student.

Reads   questions          Iterable[Question]
Writes  reasoning paths    one per (question, sample_index), right and wrong ones alike

Wrong paths are the raw material; right ones are kept because pass@1 needs both. While the stage works its paths
stand in the order in which they finished, one by one, so that it can be resumed anywhere; `finish_paths` then
brings them into the order of the questions and keeps identical ones once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from pydantic import BaseModel, Field

from lema_local.answers import grade_path
from lema_local.records import Question, ReasoningPath
from lema_local.sample_budget import SampleBudget, SamplePlan, keep_first_mistakes, waves
from lema_local.students.base import (
    Completion,
    DecodeSettings,
    Prompt,
    PromptStyle,
    SampleRequest,
    Student,
)

Key = tuple[str, int]
"""(question_id, sample_index)."""
_UNSEEDED = 0xFFFFFFFF
"""llama.cpp takes this seed for a random one. Source: llama.h, LLAMA_DEFAULT_SEED."""


class SampleSettings(SampleBudget):
    """How many paths are sampled, and how. The defaults are llama.cpp's own but for temperature and min-p."""

    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy: the same mistake every time."""
    top_k: int = Field(default=40, ge=0)
    """Choose among so many likeliest tokens; 0: all."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Choose among the likeliest tokens that have this probability together; 1: all."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Leave out tokens less likely than this share of the likeliest one's probability; 0: none."""
    repeat_penalty: float = Field(default=1.0, gt=0)
    """Above 1: tokens of the last 64 become less likely; 1: off."""
    max_tokens: int = Field(default=512, ge=1)
    """A path that has given no final answer by then is `truncated`."""
    stop: list[str] = Field(default_factory=list)
    """A path ends before the first of these strings; the prompt's own are added."""
    seed: int = 1
    """Every path's seed is derived from it, from the question's id and from the sample's index."""
    exact: bool = False
    """Fix what is decoded together, so that an interrupted run gives the same bytes as an uninterrupted one."""
    exact_group: int = Field(default=32, ge=1)
    """Questions that are decoded together to their end with `exact`: larger is faster, smaller loses less."""
    keep_identical: bool = False
    """Keep identical paths of a question one by one, not once with their count."""

    def decoding(self, stop: Iterable[str] = ()) -> DecodeSettings:
        """Return what a student needs of these, with further stop strings."""
        return DecodeSettings(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            max_tokens=self.max_tokens,
            stop=tuple(dict.fromkeys([*self.stop, *stop])),
        )


def greedy_settings(max_tokens: int) -> SampleSettings:
    """Return the settings of an evaluation: one path a question, at temperature 0."""
    return SampleSettings(samples_per_question=1, temperature=0.0, max_tokens=max_tokens, keep_identical=True)


class PathPrompt(Protocol):
    """What a question is put into: `lema_local.prompts.CotPrompt`."""

    @property
    def stop(self) -> Sequence[str]:
        """Strings that end a path."""

    def render(self, question: Question, style: PromptStyle) -> Prompt:
        """Return the prompt of a question."""


def sample_paths(
    questions: Iterable[Question],
    student: Student,
    prompt: PathPrompt,
    settings: SampleSettings,
    *,
    standing: Sequence[ReasoningPath] = (),
    stop_after: int | None = None,
    on_refusal: Callable[[Question, str], None] | None = None,
) -> Iterator[ReasoningPath]:
    """Yield ``samples_per_question`` reasoning paths per question, and further ones where the budget asks for them.

    Args:
        questions: Drawn as slots become free; with `exact` group by group, and paths come in their order.
        student: Who answers.
        prompt: What a question is put into.
        settings: How.
        standing: This student's paths from earlier goes (`find_resume_point`); they are not sampled again.
        stop_after: Mistakes after which it is enough; None: never.
        on_refusal: Told once about each question that cannot be asked (its prompt is too long), and why.

    Raises:
        BackendError: If the student cannot go on; paths already yielded stay valid.
    """
    plan = SamplePlan(settings, stop_after)
    for path in standing:
        plan.add(path)
    done = frozenset((path.question_id, path.sample_index) for path in standing)
    drawing = _Drawing(student, prompt, settings, plan, done, on_refusal)
    for wave, members in waves(questions, plan, settings):
        for group in _groups(members, settings.exact_group) if settings.exact else [members]:
            yield from drawing.draw(group, wave)
            if plan.is_enough:
                return


def _groups(questions: Iterable[Question], size: int) -> Iterator[list[Question]]:
    remaining = iter(questions)
    while group := list(islice(remaining, size)):
        yield group


@dataclass(frozen=True, slots=True)
class _Drawing:
    """One student at work on one stage."""

    student: Student
    prompt: PathPrompt
    settings: SampleSettings
    plan: SamplePlan
    done: frozenset[Key]
    on_refusal: Callable[[Question, str], None] | None

    def draw(self, questions: Iterable[Question], wave: int) -> Iterator[ReasoningPath]:
        """Yield these questions' paths of one wave, as they finish."""
        asked: dict[str, Question] = {}
        requests = self._requests(questions, wave, asked)
        decoding = self.settings.decoding(self.prompt.stop)
        for request, result in self.student.complete_many(requests, decoding, is_exact=self.settings.exact):
            question = asked[request.question_id]
            if isinstance(result, Completion):
                path = _path(question, request, result, self.student.name)
                self.plan.add(path)
                yield path
            else:
                self._refuse(question, result.reason)
            if self.plan.is_enough:
                return

    def _requests(
        self, questions: Iterable[Question], wave: int, asked: dict[str, Question]
    ) -> Iterator[SampleRequest]:
        """Yield the requests that are not done yet, and note their questions."""
        for question in questions:
            self.plan.expect(question.id, wave)
            if self.plan.is_enough:
                return
            left = [index for index in self.settings.indices(wave) if (question.id, index) not in self.done]
            if not left:
                continue
            asked[question.id] = question
            rendered = self.prompt.render(question, self.student.prompt_style)
            for index in left:
                # Seed by what is sampled, not by clock or order: a resumed run draws the same paths.
                seed = derive_seed(self.settings.seed, question.id, index)
                yield SampleRequest(question.id, index, rendered, seed)

    def _refuse(self, question: Question, reason: str) -> None:
        if self.plan.refuse(question.id) and self.on_refusal is not None:
            self.on_refusal(question, reason)


def _path(question: Question, request: SampleRequest, completion: Completion, student: str) -> ReasoningPath:
    grade = grade_path(completion.text, question, stop_reason=completion.stop_reason)
    return ReasoningPath(
        question_id=question.id,
        sample_index=request.sample_index,
        seed=request.seed,
        student=student,
        text=completion.text,
        final_answer=grade.final_answer,
        verdict=grade.verdict,
        rule=grade.rule,
        stop_reason=completion.stop_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )


def derive_seed(seed: int, question_id: str, sample_index: int) -> int:
    """Return the seed of one path: 32 bits, the same on every machine."""
    text = f"{seed}\x1f{question_id}\x1f{sample_index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % _UNSEEDED


def find_resume_point(
    paths: Sequence[ReasoningPath], questions: Sequence[Question], settings: SampleSettings
) -> int:
    """Return how many records of one student's unfinished file stay, in the file's order.

    Without `exact` every path stays. With it the last group is dropped unless it is whole: only groups that are
    decoded from their start give the same bytes again.
    """
    if not settings.exact or not paths:
        return len(paths)
    last = paths[-1]
    wave = settings.wave_of(last.sample_index)
    members = _members(paths, questions, settings, wave)
    places = {question.id: place // settings.exact_group for place, question in enumerate(members)}
    group = places[last.question_id]
    size = sum(place == group for place in places.values()) * len(settings.indices(wave))
    own = sum(
        settings.wave_of(path.sample_index) == wave and places[path.question_id] == group for path in paths
    )
    return len(paths) if own == size else len(paths) - own


def _members(
    paths: Sequence[ReasoningPath], questions: Sequence[Question], settings: SampleSettings, wave: int
) -> Sequence[Question]:
    """Return the questions of a wave, by what came out in the waves before it."""
    plan = SamplePlan(settings)
    for path in paths:
        plan.add(path)
    return next(list(members) for number, members in waves(questions, plan, settings) if number == wave)


def finish_paths(
    paths: Iterable[ReasoningPath], questions: Iterable[Question], settings: SampleSettings
) -> tuple[list[ReasoningPath], int]:
    """Return the paths in the order of the questions; identical ones once unless they are to be kept.

    Returns:
        The paths, and how many mistakes were left out as more than `max_mistakes_per_question`.
    """
    place = {question.id: number for number, question in enumerate(questions)}
    ordered = sorted(paths, key=lambda path: (place[path.question_id], path.student, path.sample_index))
    merged = ordered if settings.keep_identical else merge_identical(ordered)
    return keep_first_mistakes(merged, settings.max_mistakes_per_question)


def merge_identical(paths: Iterable[ReasoningPath]) -> list[ReasoningPath]:
    """Return the paths with those of equal text (and question, and student) kept once, with their count."""
    first: dict[tuple[str, str, str], ReasoningPath] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for path in paths:
        key = (path.question_id, path.student, path.text)
        first.setdefault(key, path)
        counts[key] += path.count
    return [path.model_copy(update={"count": counts[key]}) for key, path in first.items()]


class SampleSummary(BaseModel):
    """What sampling brought; paths count as often as they were drawn.

    `pass_at_1`, `never_wrong`, `sometimes_wrong` and `always_wrong` are told from the first samples that every question
    got alike: further ones go where mistakes are, and would bend them.
    """

    questions: int
    paths: int
    distinct_paths: int
    distinct_mistakes: int
    """Mistakes of different texts, those left out among them."""
    correct: int
    wrong: int
    no_answer: int
    truncated: int
    undecided: int
    pass_at_1: float
    """Mean over questions (of each student) of correct / samples."""
    never_wrong: int
    """Questions (of each student) without a mistake."""
    sometimes_wrong: int
    always_wrong: int
    """Questions all of whose paths are mistakes."""
    prompt_tokens: int
    """Tokens of all prompts, each counted once a question and student."""
    completion_tokens: int | None
    """None where a server does not tell them."""
    left_out_mistakes: int = 0
    """Different mistakes that are more than `max_mistakes_per_question`."""
    students: dict[str, SampleSummary] = {}
    """Each student's own summary, where there are several."""


def summarize_paths(paths: Sequence[ReasoningPath], first: int | None = None) -> SampleSummary:
    """Return the counts behind a stage's manifest and summary.

    Args:
        paths: As they were drawn, or identical ones once with their count.
        first: Samples of each question from which pass@1 is told; None: all.
    """
    students = dict.fromkeys(path.student for path in paths)
    whole = _summarize(paths, first)
    if len(students) < 2:
        return whole
    own = {name: _summarize([path for path in paths if path.student == name], first) for name in students}
    return whole.model_copy(update={"students": own})


def _summarize(paths: Sequence[ReasoningPath], first: int | None) -> SampleSummary:
    total = Counter[str]()
    alike: dict[tuple[str, str], Counter[str]] = {}
    prompts: dict[tuple[str, str], int] = {}
    for path in paths:
        total[path.verdict] += path.count
        key = (path.student, path.question_id)
        prompts[key] = path.prompt_tokens or 0
        if first is None or path.sample_index < first:
            alike.setdefault(key, Counter())[path.verdict] += path.count
    right = [counts["correct"] / counts.total() for counts in alike.values()]
    wrong = [counts["wrong"] / counts.total() for counts in alike.values()]
    return SampleSummary(
        questions=len({path.question_id for path in paths}),
        paths=total.total(),
        distinct_paths=_count_distinct(paths),
        distinct_mistakes=_count_distinct(path for path in paths if path.verdict == "wrong"),
        correct=total["correct"],
        wrong=total["wrong"],
        no_answer=total["no_answer"],
        truncated=total["truncated"],
        undecided=total["undecided"],
        pass_at_1=sum(right) / len(right) if right else 0.0,
        never_wrong=wrong.count(0.0),
        sometimes_wrong=sum(0 < share < 1 for share in wrong),
        always_wrong=wrong.count(1.0),
        prompt_tokens=sum(prompts.values()),
        completion_tokens=_sum_tokens(paths),
    )


def _count_distinct(paths: Iterable[ReasoningPath]) -> int:
    return len({(path.question_id, path.student, hash(path.text)) for path in paths})


def _sum_tokens(paths: Sequence[ReasoningPath]) -> int | None:
    told = [path.completion_tokens * path.count for path in paths if path.completion_tokens is not None]
    return sum(told) if len(told) == len(paths) else None
