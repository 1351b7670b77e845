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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from lema_local.answers import grade_path
from lema_local.records import Question, ReasoningPath
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


class SampleSettings(BaseModel):
    """How paths are sampled. The defaults are llama.cpp's own but for temperature and min-p."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_question: int = Field(default=4, ge=1)
    """More finds more mistakes; cost grows in step."""
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
    stop: list[str] = []
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
    done: Collection[Key] = (),
    on_refusal: Callable[[Question, str], None] | None = None,
) -> Iterator[ReasoningPath]:
    """Yield ``samples_per_question`` reasoning paths per question, as they finish.

    Args:
        questions: Drawn as slots become free; with `exact` group by group, and paths come in their order.
        student: Who answers.
        prompt: What a question is put into.
        settings: How.
        done: Paths that stand already (`find_resume_point`); they are not sampled again.
        on_refusal: Told once about each question that cannot be asked (its prompt is too long), and why.

    Raises:
        BackendError: If the student cannot go on; paths already yielded stay valid.
    """
    done = frozenset(done)
    decoding = settings.decoding(prompt.stop)
    for group in _groups(questions, settings.exact_group) if settings.exact else [questions]:
        asked: dict[str, Question] = {}
        requests = _requests(group, student, prompt, settings, done, asked)
        refused: set[str] = set()
        for request, result in student.complete_many(requests, decoding, is_exact=settings.exact):
            question = asked[request.question_id]
            if isinstance(result, Completion):
                yield _path(question, request, result, student.name)
            elif on_refusal is not None and question.id not in refused:
                refused.add(question.id)
                on_refusal(question, result.reason)


def _groups(questions: Iterable[Question], size: int) -> Iterator[list[Question]]:
    remaining = iter(questions)
    while group := list(islice(remaining, size)):
        yield group


def _requests(
    questions: Iterable[Question],
    student: Student,
    prompt: PathPrompt,
    settings: SampleSettings,
    done: frozenset[Key],
    asked: dict[str, Question],
) -> Iterator[SampleRequest]:
    """Yield the requests that are not done yet, and note their questions."""
    for question in questions:
        left = [index for index in range(settings.samples_per_question) if (question.id, index) not in done]
        if not left:
            continue
        asked[question.id] = question
        rendered = prompt.render(question, student.prompt_style)
        for index in left:
            # Seed by what is sampled, not by clock or order: a resumed run draws the same paths.
            yield SampleRequest(question.id, index, rendered, derive_seed(settings.seed, question.id, index))


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


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where an interrupted stage goes on."""

    kept: int
    """So many records of the unfinished file stay; with `exact` those behind them are dropped."""
    done: frozenset[Key]
    """What `sample_paths` need not do again."""


def find_resume_point(
    paths: Sequence[ReasoningPath], questions: Sequence[Question], settings: SampleSettings
) -> ResumePoint:
    """Return where to go on behind the paths of an unfinished file, in the file's order.

    Without `exact` every path stays. With it the last group is dropped unless it is whole: only groups that are
    decoded from their start give the same bytes again.
    """
    kept = list(paths)
    if settings.exact and paths:
        group_of = {question.id: place // settings.exact_group for place, question in enumerate(questions)}
        last = group_of[paths[-1].question_id]
        members = sum(group == last for group in group_of.values())
        own = [path for path in paths if group_of[path.question_id] == last]
        if len(own) < members * settings.samples_per_question:
            kept = kept[: len(paths) - len(own)]
    return ResumePoint(len(kept), frozenset((path.question_id, path.sample_index) for path in kept))


def finish_paths(
    paths: Iterable[ReasoningPath], questions: Iterable[Question], settings: SampleSettings
) -> list[ReasoningPath]:
    """Return the paths in the order of the questions; identical ones once unless they are to be kept."""
    place = {question.id: number for number, question in enumerate(questions)}
    ordered = sorted(paths, key=lambda path: (place[path.question_id], path.student, path.sample_index))
    return ordered if settings.keep_identical else merge_identical(ordered)


def merge_identical(paths: Iterable[ReasoningPath]) -> list[ReasoningPath]:
    """Return the paths with those of equal text (and question, and student) kept once, with their count."""
    first: dict[tuple[str, str, str], ReasoningPath] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for path in paths:
        key = (path.question_id, path.student, path.text)
        first.setdefault(key, path)
        counts[key] += path.count
    return [path.model_copy(update={"count": counts[key]}) for key, path in first.items()]


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What sampling brought; paths count as often as they were drawn."""

    questions: int
    paths: int
    distinct_paths: int
    correct: int
    wrong: int
    no_answer: int
    truncated: int
    undecided: int
    pass_at_1: float
    """Mean over questions of correct / samples."""
    never_wrong: int
    """Questions without a mistake."""
    sometimes_wrong: int
    always_wrong: int
    """Questions all of whose paths are mistakes."""
    prompt_tokens: int
    """Tokens of all prompts, each counted once a question."""
    completion_tokens: int


def summarize_paths(paths: Iterable[ReasoningPath]) -> SampleSummary:
    """Return the counts behind a stage's manifest and summary."""
    verdicts: dict[str, Counter[str]] = {}
    prompts: dict[str, int] = {}
    distinct = tokens = 0
    for path in paths:
        verdicts.setdefault(path.question_id, Counter())[path.verdict] += path.count
        prompts[path.question_id] = path.prompt_tokens or 0
        tokens += (path.completion_tokens or 0) * path.count
        distinct += 1
    total = sum(verdicts.values(), Counter())
    wrong = [counts["wrong"] / counts.total() for counts in verdicts.values()]
    right = [counts["correct"] / counts.total() for counts in verdicts.values()]
    return SampleSummary(
        questions=len(verdicts),
        paths=total.total(),
        distinct_paths=distinct,
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
        completion_tokens=tokens,
    )
