"""What stands on disk: one frozen, checked record type per kind of JSON line.

Ids are stable across runs. A question's id names its dataset, split and position (or the source's own id);
a reasoning path is known by (question_id, student, sample_index).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PathVerdict = Literal["correct", "wrong", "no_answer", "truncated", "undecided"]
CorrectionVerdict = Literal["accepted", "rejected", "failed"]
StopReason = Literal["end", "stop", "length", "unknown"]
"""`end`: the model's own end token; `stop`: a stop string; `length`: max_tokens; `unknown`: made elsewhere."""


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(Record):
    """A problem with its reference answer."""

    id: str
    dataset: str
    split: str
    question: str
    gold_answer: str
    gold_rationale: str | None = None
    """The steps, one a line, without `Step k:` numbers and without the final answer; None where there is none."""
    choices: list[str] | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    """What to report by: level, subject, family, number of steps."""


class ReasoningPath(Record):
    """One sampled solution."""

    question_id: str
    sample_index: int
    seed: int | None
    student: str
    text: str
    final_answer: str | None
    verdict: PathVerdict
    rule: str
    """The rule of `lema_local.answers` that decided the verdict."""
    count: int = 1
    """How many samples of this question had exactly this text (the path is kept once)."""
    stop_reason: StopReason
    prompt_tokens: int | None
    completion_tokens: int | None


class Correction(Record):
    """A teacher's account of one mistake: where it goes wrong, why, and how it goes on correctly."""

    question_id: str
    sample_index: int
    student: str
    teacher: str
    """The teacher as asked for."""
    teacher_reported: str | None
    """The model's name as the reply gave it."""
    attempt: int = 0
    original_steps: list[str]
    """The mistake's steps, without `Step k:`; the last one states the final answer."""
    incorrect_step: int | None
    """1-based position in `original_steps`; None where the reply could not be parsed."""
    explanation: str | None
    corrected_solution: str | None
    """Lines `Step k: ...` from the incorrect step on, no ellipsis, the last one `Step n: The answer is X.`"""
    final_answer: str | None
    verdict: CorrectionVerdict
    reason: str | None
    """Why it was rejected or failed; None for an accepted one."""
    checks: dict[str, bool] = Field(default_factory=dict)
    reply_key: str | None
    """Key of the raw reply in the journal."""
    cost_usd: float
    """Dollars that this reply cost when it was made (0.0 for local teachers; not paid again from the journal)."""
    asked: dict[str, Any] = Field(default_factory=dict)
    """How the teacher was asked, where that differs from the paper's way: `shows_gold`; `locates_first` with the
    `located_step` and the `locating_key` of that reply; `is_json` (false: wanted, but this teacher has no such mode);
    `is_fallback`: another teacher had failed on it."""


class Rationale(Record):
    """A further solution of a question, written by a teacher (CoT augmentation)."""

    question_id: str
    teacher: str
    teacher_reported: str | None
    attempt: int
    text: str
    final_answer: str | None
    verdict: CorrectionVerdict
    reason: str | None
    reply_key: str | None
    cost_usd: float
    is_fallback: bool = False
    """Whether another teacher had failed on it."""


class Vote(Record):
    """One of a teacher's answers to a question that it made."""

    answer: str | None
    """None where it states none, or the call failed."""
    reply_key: str | None


class EvolvedQuestion(Record):
    """A new question that a teacher made after a seed question, and how its gold answer was found."""

    id: str
    """The seed's id and which of its draws this is."""
    seed_id: str
    teacher: str
    teacher_reported: str | None
    question: str
    votes: list[Vote]
    """Empty where the answer is known without asking (the embedded problems' own variants)."""
    gold_answer: str | None
    """That of most votes; None where there is no majority."""
    gold_rationale: str | None
    """Steps of the first vote for it, one a line."""
    tags: dict[str, str] = Field(default_factory=dict)
    verdict: CorrectionVerdict
    reason: str | None
    reply_key: str | None
    """Of the reply that is the question."""
    cost_usd: float
    """Of all its replies."""


class TrainingExample(Record):
    """Prompt and completion, with all that they were rendered from."""

    id: str
    kind: Literal["cot", "correction", "fix-and-continue", "restart", "critique"]
    prompt: str
    completion: str
    question_id: str
    source: dict[str, Any]
    """{"kind": "gold" | "rationale" | "corrected" | "correction" | "right_path", "record": the whole record that the
    example was rendered from}."""
    masked: list[tuple[int, int]] = Field(default_factory=list)
    """Parts of the completion that carry no loss: [start, end), in characters."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The texts that carry loss."""
        return (self.completion,)


class PreferenceExample(Record):
    """Two ways of going on after the same beginning, the better one first (the fields of TRL's preference data)."""

    id: str
    kind: Literal["preference"] = "preference"
    prompt: str
    """What is asked, and the steps that both ways begin with."""
    chosen: str
    rejected: str
    answer_start: int = Field(ge=0)
    """Where in `prompt` the student's own answer begins, in characters: in a chat this is its turn."""
    question_id: str
    source: dict[str, Any]
    """As of a `TrainingExample`."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The texts that carry loss."""
        return self.chosen, self.rejected


AnyExample = TrainingExample | PreferenceExample


class Prediction(Record):
    """One answer given in an evaluation."""

    question_id: str
    arm: str
    sample_index: int
    text: str
    final_answer: str | None
    gold_answer: str
    is_correct: bool | None
    """None where no verdict could be reached (`undecided`)."""
    verdict: PathVerdict
    rule: str


class Share(Record):
    """How many of a group of questions were answered correctly, with the 95 % Wilson interval."""

    n: int
    correct: int
    pass_at_1: float
    low: float
    high: float


class Estimate(Record):
    """A mean over questions, with its 95 % interval (bootstrap over questions)."""

    value: float
    low: float
    high: float


class SampledScore(Record):
    """One arm's sampled answers on one dataset: as many paths for each question."""

    samples: int
    temperature: float
    questions: int
    """Questions with all their samples."""
    pass_at_k: dict[int, Estimate]
    """By k: the unbiased probability that one of k samples is right."""
    maj_at_k: dict[int, Estimate]
    """By k: the probability that the first k samples' most frequent answer is right, equal votes drawn by lot."""


class ArmScore(Record):
    """One arm's greedy answers on one dataset."""

    arm: str
    dataset: str
    prompt: str
    """Name of the prompt that was answered."""
    share: Share
    no_answer: int
    truncated: int
    undecided: int
    groups: dict[str, dict[str, Share]] = Field(default_factory=dict)
    """By tag and its value: {"family": {"chain": Share, ...}, ...}."""
    sampled: SampledScore | None = None
    """Of further answers at a temperature; None where only the greedy ones were asked for."""


class ArmComparison(Record):
    """Two arms on the same questions."""

    dataset: str
    group: str | None
    """`tag=value` where only those questions are compared; None for all."""
    first: str
    second: str
    n: int
    only_first: int
    """Questions that only the first arm answered correctly."""
    only_second: int
    p_value: float
    """Exact McNemar test, two-sided."""
    p_holm: float | None = None
    """The same after Holm's correction for `tests` tests; None in files of before."""
    tests: int = 1
    """Tests that are judged together: of all pairs of trained arms (or all pairs with the base) on all datasets, or
    groups."""
    difference: float
    """pass@1 of the second less that of the first."""
    low: float
    high: float
    """95 % interval of the difference, paired bootstrap over questions."""
    smallest_difference: float
    """The smallest difference that this test could have shown (80 % power, two-sided 5 %); 1: not even the largest."""
    sentence: str
    """What may be concluded, for a person."""


class SeedSpread(Record):
    """One number over several training seeds: an arm's pass@1, or the difference of two arms of equal seed."""

    dataset: str
    first: str | None
    """The arm that is subtracted; None for the pass@1 of `second` itself."""
    second: str
    seeds: list[int]
    values: list[float]
    """In the order of the seeds."""
    mean: float
    deviation: float
    """Standard deviation between seeds (n - 1)."""
    low: float
    high: float
    """95 % interval of the mean over trainings, by Student's t."""
    sentence: str
    """What the seeds say, for a person."""


class BestOnTest(Record):
    """The best of a training's checkpoints on the test questions themselves, as the paper reports; no fair number."""

    arm: str
    dataset: str
    step: int
    """Optimizer steps of that checkpoint."""
    checkpoints: int
    """That were tried on the test questions."""
    share: Share
    sentence: str
    """What it is and what it is not, for a person."""


class Scores(Record):
    """The result of an evaluation: `scores.json`."""

    arms: list[ArmScore]
    comparisons: list[ArmComparison]
    seeds: list[SeedSpread] = Field(default_factory=list)
    """Where arms were trained with several seeds."""
    paper_style: list[BestOnTest] = Field(default_factory=list)
    """Where it was asked for."""
