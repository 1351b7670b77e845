"""Every format of the training file on the quickstart's data, over several training seeds: docs/formats-table.md.

    python benchmarks/formats.py --runs runs/formats

Questions, sampled paths and corrections are made once and taken over by both runs: one with all formats, one whose
`fix-and-continue` learns the wrong step, too. The table is written whatever it says. The same command goes on where it
was stopped; --minutes MINUTES warns beforehand where that is unlikely to be enough.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from lema_local.records import ArmScore, Scores, Share
from lema_local.statistics import describe_seeds, format_p, summarize_seeds
from lema_local.teachers.reference import ReferenceTeacher

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("cot", "lema", "fix-and-continue", "restart", "critique", "preference")
UNMASKED = "fix-and-continue, wrong step learnt"
GROUPS = (None, "yes", "no")
MINUTES_OF_DATA = 4
SECONDS_A_STEP = {"preference": 0.6}
SECONDS_OF_OTHERS = 0.22
SECONDS_AFTER = 12
"""Of a step of four pairs, of a step of four examples (437 of them take about 95 s on two quiet cores), and of export
and 500 answers of one training; for the estimate alone."""


def run_quickstart(run: Path, settings: list[str], *more: str) -> None:
    """Run the quickstart with other settings; goes on where it was stopped."""
    command = [
        sys.executable,
        "-c",
        "from lema_local.cli import main; main()",
        "quickstart",
        "--run",
        str(run),
    ]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run([*command, *more], check=True)


def read_scores(run: Path) -> Scores:
    """Return what an evaluation found."""
    return Scores.model_validate_json((run / "8_evaluate" / "scores.json").read_bytes())


def run_all(runs: Path, seeds: list[int], settings: list[str]) -> tuple[Scores, Scores]:
    """Make the data, then train, export and evaluate all formats; return both runs' scores."""
    data, formats, unmasked = runs / "data", runs / "formats", runs / "unmasked"
    run_quickstart(data, settings, "--until", "filter")
    own = [f"train.seed={seeds[0]}", f"train.seeds={seeds[1:]}", *settings]
    run_quickstart(formats, [f"train.arms=[{','.join(FORMATS)}]", *own], "--reuse", str(data))
    other = ["train.arms=[fix-and-continue]", "build.mask_wrong_step=false"]
    run_quickstart(unmasked, [*other, *own], "--reuse", str(data))
    return read_scores(formats), read_scores(unmasked)


def estimate_minutes(seeds: int, steps: int) -> float:
    """Return about how long everything takes on two quiet cores."""
    arms = [*FORMATS, UNMASKED]
    each = sum(SECONDS_A_STEP.get(arm, SECONDS_OF_OTHERS) * steps + SECONDS_AFTER for arm in arms)
    return MINUTES_OF_DATA + seeds * each / 60


def rows_of(arm: str, seeds: list[int]) -> list[str]:
    """Return the names of an arm's rows, by seed."""
    return [arm, *(f"{arm}-seed-{seed}" for seed in seeds[1:])]


def share(score: ArmScore, group: str | None) -> Share:
    """Return the share of all questions, or of those of the held-back families, or of the others."""
    return score.share if group is None else score.groups["held_back"][group]


def collect(main: Scores, unmasked: Scores, seeds: list[int]) -> dict[str, list[ArmScore]]:
    """Return each format's scores by seed; the base's once."""
    found = {score.arm: score for score in main.arms}
    other = {score.arm: score for score in unmasked.arms}
    table = {"base": [found["base"]]}
    for arm in FORMATS:
        table[arm] = [found[row] for row in rows_of(arm, seeds)]
        if arm == "fix-and-continue":
            table[UNMASKED] = [other[row] for row in rows_of(arm, seeds)]
    return table


def write_table(
    table: dict[str, list[ArmScore]], main: Scores, seeds: list[int], path: Path, head: str
) -> None:
    """Write shares by seed, their means, and what may be said of each format against `cot`."""
    lines = [head, f"| format | {' | '.join(f'seed {seed}' for seed in seeds)} | all | held back | others |"]
    lines.append("| --- |" + " --- |" * (len(seeds) + 3))
    for arm, scores in table.items():
        cells = [f"{score.share.correct} of {score.share.n}" for score in scores]
        cells += cells * (len(seeds) - len(cells))  # the base needs no seed
        means = [_mean([share(score, group).pass_at_1 for score in scores]) for group in GROUPS]
        lines.append(f"| {arm} | {' | '.join([*cells, *means])} |")
    lines += [
        "",
        "The last three columns: mean over the seeds in per cent (standard deviation), of all problems, of",
    ]
    lines += [
        "the families that the student was pre-trained without, and of the others.",
        "",
        "## Against `cot`",
        "",
    ]
    lines += [f"- {sentence}" for sentence in _against_cot(table)]
    lines += [
        "",
        f"Seed {seeds[0]} alone, exact McNemar on its questions, with Holm's correction over all pairs of",
    ]
    lines += ["the formats of one run:", ""]
    for one in main.comparisons:
        if one.group is None and one.first == "cot":
            holm = format_p(one.p_value if one.p_holm is None else one.p_holm)
            points = (
                f"{one.difference * 100:+.1f} points (95 % {one.low * 100:+.1f} to {one.high * 100:+.1f})"
            )
            lines.append(
                f"- {one.second} less cot: {points}, {format_p(one.p_value)}, {holm} of {one.tests} tests"
            )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _mean(values: list[float]) -> str:
    found = summarize_seeds([100 * value for value in values]) if len(values) > 1 else None
    return f"{found.mean:.1f} ({found.deviation:.1f})" if found else f"{100 * values[0]:.1f}"


def _against_cot(table: dict[str, list[ArmScore]]) -> list[str]:
    """Return what the seeds say of each format less `cot`, of equal seed."""
    control = [score.share.pass_at_1 for score in table["cot"]]
    if len(control) < 2:
        return ["one seed tells nothing of the training's chance"]
    return [
        describe_seeds(
            "cot",
            arm,
            summarize_seeds(
                [one.share.pass_at_1 - of_cot for one, of_cot in zip(scores, control, strict=True)]
            ),
        )
        for arm, scores in table.items()
        if arm not in ("base", "cot")
    ]


HEAD = """# The formats on the quickstart's data

Written by `benchmarks/formats.py`, as it came out: {seeds} training seeds, {steps} optimizer steps of 4 examples (or
pairs) each, {questions} test problems, greedy, one answer each. The same sampled paths and corrections for all; each
format's own training, export to GGUF and evaluation by llama.cpp. `preference` has pairs alone and is trained by DPO
from the base (learning rate {rate}, beta 0.1); the others share their plain rationales. What each format is:
[formats](formats.md).

A student of 2.6 million parameters shows that each format trains, exports and evaluates; which of them is worth most to
a model of use cannot be read off here.

Versions: {versions}.
"""


def _versions() -> str:
    names = ("lema-local", "llama-cpp-python", "torch", "transformers", "peft", "trl", "bitsandbytes")
    return ", ".join(
        [*(f"{name} {version(name)}" for name in names), f"teacher {ReferenceTeacher().identity}"]
    )


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "formats")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=220, help="optimizer steps of each training")
    parser.add_argument("--questions", type=int, default=500, help="test problems")
    parser.add_argument("--dpo-learning-rate", type=float, default=DPO_LEARNING_RATE)
    parser.add_argument("--minutes", type=float, default=35.0, help="warn where it is likely to take longer")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "formats-table.md")
    given = parser.parse_args()
    estimate = estimate_minutes(len(given.seeds), given.steps)
    longer = f": more than --minutes {given.minutes:g}" if estimate > given.minutes else ""
    print(f"about {estimate:.0f} minutes on two quiet cores{longer}", file=sys.stderr)
    settings = [
        f"questions.test=[{{source: quickstart@test, limit: {given.questions}, seed: 1}}]",
        f"train.max_steps={given.steps}",
        f"train.dpo_learning_rate={given.dpo_learning_rate}",
        "export.merge=[]",
        "export.fidelity_prompts=5",
    ]
    began = time.monotonic()
    formats, unmasked = run_all(given.runs, given.seeds, settings)
    head = HEAD.format(
        seeds=len(given.seeds), steps=given.steps, questions=given.questions, rate=f"{given.dpo_learning_rate:g}",
        versions=_versions(),
    )  # fmt: skip
    write_table(collect(formats, unmasked, given.seeds), formats, given.seeds, given.out, head)
    print(json.dumps({"table": str(given.out), "minutes": round((time.monotonic() - began) / 60, 1)}))


DPO_LEARNING_RATE = 1e-4
"""Chosen on the quickstart's validation problems (docs/log.md)."""

if __name__ == "__main__":
    main()
