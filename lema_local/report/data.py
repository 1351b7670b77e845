"""What a report shows, as plain values: gathered by `reading`, drawn by `charts`, written out by `rendering`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from lema_local.contamination import Certificate
from lema_local.records import (
    ArmComparison,
    ArmScore,
    Correction,
    PathVerdict,
    Prediction,
    Question,
    Scores,
    Share,
)
from lema_local.runs import Manifest
from lema_local.training.base import MAX_MEAN_KL, MIN_SAME_TOP

StageState = Literal["finished", "unfinished", "not run", "damaged"]


def is_base(arm: str) -> bool:
    """Whether a row of the scores is the untrained student, by whatever prompt."""
    return arm in ("base", "base_zero_shot")


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
    answers: Sequence[Prediction] = ()
    """What the trained arms answer to this question now; it is one that they were trained on."""


@dataclass(frozen=True, slots=True)
class AnswerExample:
    """A test question that the base got wrong, with every arm's answer to it."""

    question_id: str
    question: Question | None
    answers: Sequence[Prediction]
    """The base's first."""
    steps: Sequence[str] = ()
    """The base's solution."""
    incorrect_step: int | None = None
    """1-based position in `steps`, found by arithmetic from the gold rationale; None where none was found."""
    explanation: str = ""
    """Why that step is wrong; empty where none was found."""


class Outcome(NamedTuple):
    """One answer, without its text."""

    is_correct: bool
    """False where no verdict could be reached."""
    verdict: PathVerdict
    final_answer: str | None


Outcomes = dict[tuple[str, str], dict[str, Outcome]]
"""By (arm, dataset) and question id."""


@dataclass(frozen=True, slots=True)
class Change:
    """One arm's answers against the base's on the same test questions, both greedy."""

    dataset: str
    base: str
    arm: str
    questions: int
    both_right: int
    mended: int
    """The base was wrong, the arm is right."""
    new: int
    """The base was right, the arm is wrong."""
    both_wrong: int
    same_answer: int
    """Of both wrong: with the same final answer."""


@dataclass(frozen=True, slots=True)
class KindChange:
    """What became of one kind of mistake: `before - away + new + turned = after`."""

    kind: str
    before: int
    """The base's mistakes of this kind."""
    away: int
    """Of those: the arm answers the question rightly."""
    new: int
    """The arm's mistakes of this kind where the base was right."""
    turned: int
    """Where both are wrong: those that became this kind less those that became another."""
    after: int
    """The arm's mistakes of this kind."""


@dataclass(frozen=True, slots=True)
class WrongAnswers:
    """Where the arms go wrong on one dataset's test questions, by arithmetic from the gold rationales."""

    dataset: str
    classified: int
    """Questions whose wrong answers were read."""
    questions: int
    """Questions that some arm answered wrongly; more than `classified` where those were chosen by chance."""
    with_rationale: int
    """Of the classified: with a gold rationale; without one only false arithmetic can be told."""
    kinds: Mapping[str, Mapping[str, int]]
    """By arm, wrong answers by kind."""
    positions: Mapping[str, Mapping[str, int]]
    """By arm, wrong answers by the number of the first wrong step: `1` ... `5 or later`."""
    changes: Mapping[str, Sequence[KindChange]]
    """By arm other than the base, what became of each kind."""


@dataclass(frozen=True, slots=True)
class GradeLine:
    """How often a grade was given, with its 95 % Wilson interval."""

    grade: str
    count: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GradeShares:
    """The grades that people gave the corrections, of one reviewer or of one teacher's corrections."""

    name: str
    corrections: int
    lines: Sequence[GradeLine]


@dataclass(frozen=True, slots=True)
class Review:
    """What people think of the corrections; see `lema review`."""

    by_reviewer: Sequence[GradeShares]
    by_teacher: Sequence[GradeShares]
    """All reviewers' grades together; empty where there was one teacher."""
    agreements: Sequence[str]
    """How far each two reviewers agree, in words."""


@dataclass(frozen=True, slots=True)
class RoundLine:
    """One round of a run."""

    number: int
    """1-based; 1 is the run's own folder."""
    state: str
    """Whether it has finished, in a word."""
    wrong: int
    """Samples with a wrong answer: what the student that was sampled has left to learn."""
    samples: int
    accepted: int
    cost_usd: float
    seconds: float
    shares: Mapping[tuple[str, str], Share]
    """pass@1 by (arm, dataset)."""
    sampled_from: str | None = None
    """Whose mistakes these are; None where the run does not say."""
    new_mistakes: int | None = None
    """Different mistakes that no correction of an earlier round answers; None where the run does not say."""
    reason: str | None = None
    """Why no round follows, in words; None where one does, or may."""


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
class PairedRuns:
    """One arm of one run against the same arm of another, on the test questions that both answered."""

    dataset: str
    arm: str
    first: Share
    """On those questions."""
    second: Share
    difference: float
    """pass@1 of the second run less that of the first."""
    low: float
    high: float
    p_value: float
    p_holm: float | None
    tests: int
    sentence: str


@dataclass(frozen=True, slots=True)
class RunsCompared:
    """Two runs side by side."""

    names: tuple[str, str]
    settings: Sequence[tuple[str, str, str]]
    """(name, in the first, in the second) of every setting of the recipes that differs."""
    shares: Sequence[tuple[str, str, Share | None, Share | None]]
    """(dataset, arm, first, second); each on all questions that its run asked."""
    pairs: Sequence[PairedRuns]
    notes: Sequence[str]
    """Where the two cannot be paired, and why; what is missing in the second run."""
    counts: Sequence[tuple[str, str, str]]
    """(what, in the first, in the second): the funnel, dollars, time."""
    teachers: Sequence[tuple[str, TeacherLine]]
    """(run, teacher) of both."""


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
    test_questions: Mapping[str, str]
    """By id, a hash of the question and its gold answer."""
    outcomes: Outcomes
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
    changes: Sequence[Change]
    wrong: Sequence[WrongAnswers]
    named_steps: Mapping[str, Mapping[str, int]]
    """By teacher, accepted corrections by the number of the step that it named."""
    review: Review | None
    rounds: Sequence[RoundLine]
    """Empty where there is one round."""
    prices: Mapping[str, str]
    """By teacher, dollars per million tokens, in words."""
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
    compared: RunsCompared | None = None
    """With another run, where that was asked for."""

    @property
    def every_arm(self) -> list[str]:
        """Every arm that the report names, in one order."""
        scored = [score.arm for score in self.scores.arms] if self.scores else []
        answered = [arm for arm, _ in self.outcomes]
        in_rounds = [arm for one in self.rounds for arm, _ in one.shares]
        trained = [arm.name for arm in self.arms]
        return list(
            dict.fromkeys((*scored, *answered, *trained, *(one.arm for one in self.curves), *in_rounds))
        )

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
        found = self.scores.comparisons if self.scores else []
        order = list(dict.fromkeys((one.group, one.dataset) for one in found))
        order.sort(key=lambda key: key[0] is not None)
        return sorted(
            found,
            key=lambda one: (
                order.index((one.group, one.dataset)),
                is_base(one.first) + is_base(one.second),
            ),
        )
