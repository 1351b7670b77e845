"""What a report shows, as plain values: gathered by `reading`, drawn by `charts`, written out by `rendering`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lema_local.contamination import Certificate
from lema_local.records import ArmComparison, ArmScore, Correction, Prediction, Question, Scores
from lema_local.runs import Manifest
from lema_local.training.base import MAX_MEAN_KL, MIN_SAME_TOP

StageState = Literal["finished", "unfinished", "not run", "damaged"]


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage, or one arm's part of a stage."""

    name: str
    """Its folder in the run, such as `1_sample` or `6_train/cot`."""
    state: StageState
    manifest: Manifest | None
    """The finished stage's manifest, else what it wrote when it started; None where there is neither."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that did not go on to the next step of the funnel, and why."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """What was there at one point of the way from questions to training examples."""

    name: str
    count: int
    lost: Sequence[Loss] = ()
    """Why the next step has fewer."""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class TeacherLine:
    """What one teacher wrote."""

    asked: str
    reported: str | None
    corrections: int
    accepted: int
    cost_usd: float
    """When the replies were made; from the journal they cost nothing again."""

    @property
    def cost_per_accepted_usd(self) -> float | None:
        """None where nothing was accepted."""
        return self.cost_usd / self.accepted if self.accepted else None


@dataclass(frozen=True, slots=True)
class TrainedArm:
    """One arm's training data and training; None where it is not known (yet)."""

    name: str
    examples: int
    by_source: dict[str, int]
    """Examples by what they were rendered from: gold, rationale, correction."""
    target_characters: int
    """Of all completions together."""
    trained_tokens: int | None = None
    optimizer_steps: int | None = None
    batch_size: int | None = None
    """Examples in an optimizer step."""
    left_out: int | None = None
    """Examples that training left out, such as those that are too long."""
    final_loss: float | None = None
    peak_memory_gib: float | None = None

    @property
    def tokens_in_training(self) -> int | None:
        """Tokens that carried loss over the whole training: those of a pass times the passes."""
        counts = (self.trained_tokens, self.optimizer_steps, self.batch_size)
        trained = self.examples - (self.left_out or 0)
        if None in counts or trained <= 0:
            return None
        tokens, steps, batch = (count or 0 for count in counts)
        return round(tokens * steps * batch / trained)


@dataclass(frozen=True, slots=True)
class LossCurve:
    """One arm's training loss by optimizer step."""

    arm: str
    steps: Sequence[float]
    losses: Sequence[float]


@dataclass(frozen=True, slots=True)
class CorrectionExample:
    """An accepted correction with its question (None where the question's file is missing)."""

    question: Question | None
    correction: Correction


@dataclass(frozen=True, slots=True)
class AnswerExample:
    """A test question that the base got wrong, with every arm's answer to it."""

    question_id: str
    question: Question | None
    answers: Sequence[Prediction]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Whether one arm's exported adapter is the trained one; see `training.base.FidelityResult`."""

    arm: str
    prompts: int
    greedy_equal: int
    near_ties: int
    near_tie_logits: float | None = None
    nf4_greedy_equal: int | None = None
    nf4_mean_kl: float | None = None
    without_adapter_equal: int | None = None
    differences: Sequence[Mapping[str, str]] = ()
    divergence: Mapping[str, Any] | None = None
    """Of the logits, over all positions; see `training.base.Divergence`."""
    without_adapter: Mapping[str, Any] | None = None
    is_base_quantized: bool = False
    right: Mapping[str, int] = field(default_factory=dict)
    """By form of the student (trained, adapter on GGUF, merged ...): prompts answered correctly."""
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By form of the student: its answer to each prompt."""

    def same_texts(self, name: str) -> int:
        """Return how many prompts this form of the student answered with the trained one's very text."""
        trained = self.answers.get("trained", ())
        return sum(ours == theirs for ours, theirs in zip(trained, self.answers.get(name, ()), strict=False))

    @property
    def is_same_student(self) -> bool:
        """True where every difference is a near-tie, and the logits agree where they have to."""
        far = self.divergence if not self.is_base_quantized else None
        is_close = far is None or (
            far["mean_kl"] < MAX_MEAN_KL and far["same_top"] >= MIN_SAME_TOP * far["clear_positions"]
        )
        return is_close and self.greedy_equal + self.near_ties == self.prompts


@dataclass(frozen=True, slots=True)
class NamedText:
    """A prompt, or another text shown in full."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """What sampling brought."""

    samples: int = 0
    """All that were drawn, identical ones too."""
    distinct: int = 0
    by_verdict: dict[str, int] = field(default_factory=dict)
    """Samples by verdict."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    students: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that a report shows."""

    name: str
    stages: Sequence[StageLine]
    problems: Sequence[str]
    """What could not be read, and what makes the scores not to be reported on."""
    recipe: str | None
    """The resolved recipe, as YAML."""
    seeds: dict[str, Any]
    questions: dict[str, int]
    """Questions by split."""
    samples: SampleCounts
    funnel: Sequence[FunnelStep]
    rationales: FunnelStep | None
    checks: dict[str, tuple[int, int]]
    """By name of a check on corrections: how many passed, how many were checked."""
    teachers: Sequence[TeacherLine]
    arms: Sequence[TrainedArm]
    certificates: Sequence[Certificate]
    """What the training files share with the test questions."""
    curves: Sequence[LossCurve]
    scores: Scores | None
    answered: dict[str, int]
    """Predictions on disk, by arm and dataset: `base/gsm8k`."""
    corrections: Sequence[CorrectionExample]
    new_answers: Sequence[AnswerExample]
    fidelity: Sequence[Fidelity]
    prompts: Sequence[NamedText]
    training_examples: Sequence[NamedText]
    """One example of each kind, prompt and completion, as trained on."""
    versions: dict[str, str]
    machine: dict[str, str]
    example_seed: int

    @property
    def datasets(self) -> list[str]:
        """Evaluated datasets, in the order of the scores."""
        return list(dict.fromkeys(score.dataset for score in self.scores.arms)) if self.scores else []

    def arm_scores(self, dataset: str) -> list[ArmScore]:
        """Return the arms' scores on a dataset."""
        return [score for score in self.scores.arms if score.dataset == dataset] if self.scores else []

    @property
    def comparisons(self) -> list[ArmComparison]:
        """Paired comparisons, those on all questions first; in each group those between trained arms first."""
        trained = {"cot", "lema"}
        found = self.scores.comparisons if self.scores else []
        order = list(dict.fromkeys((one.group, one.dataset) for one in found))
        order.sort(key=lambda key: key[0] is not None)
        return sorted(
            found,
            key=lambda one: (order.index((one.group, one.dataset)), -len({one.first, one.second} & trained)),
        )
