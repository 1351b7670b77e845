"""A run folder as a run leaves it, written with the project's own records: numbers invented, shapes real.

Of the size that a test asks for; a test may take files away, damage them, or put hostile text everywhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from lema_local.jsonl import write_records
from lema_local.prompts import load_prompt
from lema_local.records import (
    ArmComparison,
    ArmScore,
    Correction,
    Prediction,
    Question,
    ReasoningPath,
    Scores,
    Share,
    TrainingExample,
)
from lema_local.runs import Manifest, RunFolder, fingerprint, write_text
from lema_local.steps import number_steps

ARMS = ("base", "base_zero_shot", "cot", "lema")
SKILL = {"base": 0.42, "base_zero_shot": 0.36, "cot": 0.55, "lema": 0.58}
FAMILIES = ("chain", "comparison", "discount", "sharing")
HELD_BACK = ("discount",)
STUDENT = "quickstart-2m-f16.gguf"
HOSTILE = (
    "</p></pre><script>document.title='pwned'</script><img src=x onerror=alert(1)> {{ 7*7 }} ````` \x00\x1b[31m\u202e"
    " | [a](javascript:alert(1)) http://evil.example/x $\\frac{1}{2}$ " + "W" * 300
)


@dataclass(frozen=True)
class FakeRun:
    """How large the run is and what its texts say."""

    train: int = 40
    test: int = 60
    samples: int = 4
    seed: int = 7
    hostile: str = ""
    """Put into every text of a model, of a question, and into reasons and tags."""

    def write(self, path: Path) -> RunFolder:
        """Write the whole run and return its folder."""
        run, rng = RunFolder(path), random.Random(self.seed)
        path.mkdir(parents=True)
        write_text(run.recipe_path, RECIPE)
        train, test = self._questions("train", self.train), self._questions("test", self.test)
        _write(run, "0_questions/train", train)
        _write(run, "0_questions/validation", self._questions("validation", 8))
        _write(run, "0_questions/test", test)
        paths = [path for question in train for path in self._paths(question, rng)]
        _write(run, "1_sample/paths", paths)
        by_id = {question.id: question for question in train}
        mistakes = [one for one in paths if one.verdict == "wrong"]
        corrections = [self._correct(one, by_id[one.question_id], rng) for one in mistakes]
        _write(run, "2_correct/corrections", corrections)
        accepted = [one for one in corrections if one.verdict == "accepted"]
        _write(run, "4_filter/accepted", accepted)
        _write(run, "4_filter/rejected", [one for one in corrections if one.verdict == "rejected"])
        self._write_training(run, train, accepted, rng)
        self._write_evaluation(run, test, rng)
        _write_manifests(run, len(paths))
        return run

    def _questions(self, split: str, count: int) -> list[Question]:
        return [
            Question(
                id=f"quickstart/{split}/{number}",
                dataset="quickstart",
                split=split,
                question=f"Mia has {number} apples and buys {number % 7 + 2} bags of 3 apples."
                f" Tom gives her {number % 5} more. How many apples does Mia have now?{self.hostile}",
                gold_answer=str(number + 3 * (number % 7 + 2) + number % 5),
                gold_rationale=f"{number % 7 + 2}*3={3 * (number % 7 + 2)}\n{number}+{3 * (number % 7 + 2)}",
                tags={
                    "family": FAMILIES[number % 4] + self.hostile,
                    "held_back": "yes" if FAMILIES[number % 4] in HELD_BACK else "no",
                },
            )
            for number in range(count)
        ]

    def _paths(self, question: Question, rng: random.Random) -> list[ReasoningPath]:
        return [
            ReasoningPath(
                question_id=question.id,
                sample_index=index,
                seed=rng.randrange(2**31),
                student=STUDENT + self.hostile,
                text=self._solution(str(int(question.gold_answer) + 3)),
                final_answer=None if verdict in ("no_answer", "truncated") else "12",
                verdict=verdict,
                rule="last_statement",
                count=rng.choice((1, 1, 1, 2)),
                stop_reason="length" if verdict == "truncated" else "stop",
                prompt_tokens=180,
                completion_tokens=rng.randrange(40, 90),
            )
            for index, verdict in enumerate(
                rng.choices(
                    ("correct", "wrong", "no_answer", "truncated", "undecided"),
                    (45, 45, 5, 4, 1),
                    k=self.samples,
                )
            )
        ]

    def _steps(self, answer: str) -> list[str]:
        return [
            f"Mia buys 4 bags of 3 apples, that is 4*3=13 apples.{self.hostile}",
            "Together with what she had that makes 13+5=18.",
            f"The answer is {answer}.",
        ]

    def _solution(self, answer: str) -> str:
        return number_steps(self._steps(answer))

    def _correct(self, path: ReasoningPath, question: Question, rng: random.Random) -> Correction:
        verdict = rng.choices(("accepted", "rejected", "failed"), (80, 17, 3))[0]
        reasons = (
            f"its final answer {rng.randrange(99)} is not the gold answer {question.gold_answer}",
            "the reply is empty",
        )
        return Correction(
            question_id=path.question_id,
            sample_index=path.sample_index,
            student=path.student,
            teacher="reference",
            teacher_reported=None,
            original_steps=self._steps("21"),
            incorrect_step=1,
            explanation=f"4*3 is 12, not 13: three apples in each of four bags are twelve apples.{self.hostile}",
            corrected_solution=number_steps(
                [
                    "Mia buys 4 bags of 3 apples, that is 4*3=12 apples.",
                    f"The answer is {question.gold_answer}.",
                ]
            )
            + self.hostile,
            final_answer=question.gold_answer,
            verdict=verdict,
            reason=None
            if verdict == "accepted"
            else "the teacher did not answer in 60 s"
            if verdict == "failed"
            else rng.choice(reasons) + self.hostile,
            checks={}
            if verdict == "failed"
            else {"final_answer": verdict == "accepted", "arithmetic_holds": rng.random() < 0.97},
            reply_key="f" * 16,
            cost_usd=0.0,
        )

    def _write_training(
        self, run: RunFolder, train: Sequence[Question], accepted: Sequence[Correction], rng: random.Random
    ) -> None:
        prompt = "Please solve the following math problem.\nQuestion: {}\nAnswer: Let's think step by step.\n"
        gold = [
            TrainingExample(
                id=f"gold:{one.id}", kind="cot", prompt=prompt.format(one.question),
                completion=f"{one.gold_rationale}\nThe answer is {one.gold_answer}.", question_id=one.id,
                source={"kind": "gold"},
            )
            for one in train
        ]  # fmt: skip
        for arm, kind in (("cot", "cot"), ("lema", "correction")):
            corrected = [
                TrainingExample(
                    id=f"{arm}:{one.question_id}:{one.sample_index}", kind=kind, prompt="... Incorrect Step:",
                    completion=f" Step 1.\nExplanation: {one.explanation if kind == 'correction' else ''}",
                    question_id=one.question_id,
                    source={"kind": "correction", "correction": one.model_dump(mode="json")},
                )
                for one in accepted
            ]  # fmt: skip
            _write(run, f"5_build/{arm}", [*gold, *corrected])
            loss, lines = 2.4, []
            for step in range(1, 121):
                loss = loss * 0.975 + rng.uniform(-0.03, 0.03)
                lines.append(
                    json.dumps({"step": step, "loss": round(max(loss, 0.05), 4), "learning_rate": 2e-4})
                )
            write_text(run.stage("6_train").path / arm / "train_log.jsonl", "\n".join(lines) + "\n")

    def _write_evaluation(self, run: RunFolder, test: Sequence[Question], rng: random.Random) -> None:
        right = {arm: {one.id: rng.random() < _skill(arm, one) for one in test} for arm in ARMS}
        for arm in ARMS:
            _write(
                run,
                f"8_evaluate/{arm}/quickstart",
                [self._predict(arm, one, right[arm][one.id]) for one in test],
            )
        pairs = [(first, second) for at, first in enumerate(ARMS) for second in ARMS[at + 1 :]]
        groups: list[tuple[str | None, list[str]]] = [(None, [one.id for one in test])]
        for value in ("no", "yes"):
            groups.append((f"held_back={value}", [one.id for one in test if one.tags["held_back"] == value]))
        scores = Scores(
            arms=[_score(arm, test, right[arm]) for arm in ARMS],
            comparisons=[_compare(pair, group, ids, right) for group, ids in groups for pair in pairs if ids],
        )
        write_text(run.stage("8_evaluate").path / "scores.json", scores.model_dump_json(indent=2))

    def _predict(self, arm: str, question: Question, is_correct: bool) -> Prediction:
        answer = question.gold_answer if is_correct else "17"
        return Prediction(
            question_id=question.id,
            arm=arm,
            sample_index=0,
            text=self._solution(answer) + self.hostile,
            final_answer=answer + self.hostile,
            gold_answer=question.gold_answer,
            is_correct=is_correct,
            verdict="correct" if is_correct else "wrong",
            rule="last_statement",
        )


def _skill(arm: str, question: Question) -> float:
    return SKILL[arm] * (0.45 if arm.startswith("base") and question.tags["held_back"] == "yes" else 1.0)


def _share(ids: Sequence[str], right: dict[str, bool]) -> Share:
    from scipy.stats import binomtest

    correct = sum(right[key] for key in ids)
    interval = binomtest(correct, len(ids)).proportion_ci(method="wilson")
    return Share(
        n=len(ids),
        correct=correct,
        pass_at_1=correct / len(ids),
        low=float(interval.low),
        high=float(interval.high),
    )


def _score(arm: str, test: Sequence[Question], right: dict[str, bool]) -> ArmScore:
    tags = {tag: sorted({one.tags[tag] for one in test}) for tag in ("family", "held_back")}
    return ArmScore(
        arm=arm,
        dataset="quickstart",
        prompt="few-shot" if arm == "base" else "zero-shot",
        share=_share([one.id for one in test], right),
        no_answer=3,
        truncated=1,
        undecided=0,
        groups={
            tag: {
                value: _share([one.id for one in test if one.tags[tag] == value], right) for value in values
            }
            for tag, values in tags.items()
        },
    )


def _compare(
    pair: tuple[str, str], group: str | None, ids: Sequence[str], right: dict[str, dict[str, bool]]
) -> ArmComparison:
    from scipy.stats import binomtest

    first, second = right[pair[0]], right[pair[1]]
    only_first = sum(first[key] and not second[key] for key in ids)
    only_second = sum(second[key] and not first[key] for key in ids)
    n, difference = len(ids), (only_second - only_first) / len(ids)
    spread = 1.96 * max(only_first + only_second, 1) ** 0.5 / n
    p_value = (
        float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0
    )
    shown = "is better than" if difference > 0 else "is worse than"
    verdict = shown if p_value < 0.05 else "cannot be told apart from"
    return ArmComparison(
        dataset="quickstart",
        group=group,
        first=pair[0],
        second=pair[1],
        n=n,
        only_first=only_first,
        only_second=only_second,
        p_value=p_value,
        difference=difference,
        low=difference - spread,
        high=difference + spread,
        smallest_difference=spread * 1.4,
        sentence=f"On {n} questions {pair[1]} {verdict} {pair[0]}"
        f" ({100 * difference:+.1f} points, p = {p_value:.3f}).",
    )


def _write(run: RunFolder, name: str, records: Sequence[BaseModel]) -> None:
    path = run.path / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, records)


def _write_manifests(run: RunFolder, paths: int) -> None:
    fidelity = {
        "prompts": 20, "greedy_equal": 19, "near_ties": 1, "near_tie_logits": 0.05, "nf4_greedy_equal": 15,
        "nf4_mean_kl": 0.0031, "without_adapter_equal": 2,
        "differences": [{"prompt": "Question: ...", "torch": "12", "gguf": "13", "reason": "near-tie"}],
    }  # fmt: skip
    trained = {"optimizer_steps": 120, "peak_memory_gib": 1.2}
    counts: dict[str, tuple[float, dict[str, object]]] = {
        "0_questions": (0.8, {}),
        "1_sample": (61.2, {"paths": paths}),
        "2_correct": (3.1, {"prompt_tokens": 0, "completion_tokens": 0}),
        "4_filter": (0.4, {}),
        "5_build": (0.6, {}),
        "6_train/cot": (88.0, {**trained, "trained_tokens": 61234, "left_out_ids": ["a"], "final_loss": 0.311}),
        "6_train/lema": (97.5, {**trained, "trained_tokens": 90412, "left_out_ids": [], "final_loss": 0.402}),
        "7_export/cot": (12.0, {"fidelity": fidelity, "tensors": 28}),
        "7_export/lema": (12.5, {"fidelity": {**fidelity, "greedy_equal": 18}, "tensors": 28}),
        "8_evaluate": (70.9, {}),
    }  # fmt: skip
    for name, (seconds, numbers) in counts.items():
        made_from = {"stage": name, "sample": {"temperature": 0.7, "seed": 1}, "student_sha256": "ab" * 32}
        if name == "1_sample":
            made_from["prompt"] = load_prompt("cot-gsm8k").fingerprint
        run.stage(name).save_manifest(
            Manifest(
                stage=name,
                fingerprint=fingerprint(made_from),
                made_from=made_from,
                counts=numbers,
                seconds=seconds,
            )
        )


RECIPE = """\
name: fake
questions:
  train: quickstart@train
  test: [quickstart@test]
student: {model: quickstart}
teacher: {model: reference}
sample: {prompt: cot-gsm8k, samples_per_question: 4, temperature: 0.7, seed: 1}
train: {seed: 0, learning_rate: 0.002}
report: {examples: 10}
"""
