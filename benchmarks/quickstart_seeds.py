"""The quickstart's comparison over several training seeds, as a table in docs/quickstart-seeds.md.

    python benchmarks/quickstart_seeds.py --runs runs/seeds --seeds 0 1 2 3 4

Everything up to the training files is made once and taken over; each seed trains, exports and evaluates both arms
anew. The table is written whatever it says. Takes some three minutes a seed on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from lema_local.records import ArmScore, Scores, Share
from lema_local.teachers.reference import ReferenceTeacher

ROOT = Path(__file__).resolve().parents[1]
ROWS = (("all", None), ("held_back=yes", "yes"), ("held_back=no", "no"))


def run_seed(runs: Path, seed: int) -> Scores:
    """Run the quickstart with one training seed, taking over what the first one made."""
    run = runs / f"seed-{seed}"
    command = [
        sys.executable,
        "-c",
        "from lema_local.cli import main; main()",
        "quickstart",
        "--run",
        str(run),
    ]
    command += ["--set", f"train.seed={seed}", "--reuse", str(runs / "seed-0")]
    subprocess.run(command, check=True)
    return Scores.model_validate_json((run / "8_evaluate" / "scores.json").read_bytes())


def share(score: ArmScore, held_back: str | None) -> Share:
    """Return an arm's share of all questions, or of one of the two groups."""
    return score.share if held_back is None else score.groups["held_back"][held_back]


def write_table(scores: dict[int, Scores], path: Path) -> None:
    """Write one line per seed and group, then mean and standard deviation over the seeds."""
    lines = [HEAD.format(seeds=len(scores), versions=_versions())]
    lines.append("| questions | seed | base | cot | lema | lema less cot, points (95 %) | exact McNemar p |")
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    summary = []
    for name, group in ROWS:
        differences = []
        by_arm: dict[str, list[float]] = {"base": [], "cot": [], "lema": []}
        for seed, one in scores.items():
            arms = {score.arm: share(score, group) for score in one.arms}
            for arm, found in arms.items():
                by_arm[arm].append(found.pass_at_1 * 100)
            pair = next(
                found
                for found in one.comparisons
                if (found.first, found.second) == ("cot", "lema")
                and found.group == (None if group is None else name)
            )
            differences.append(pair.difference * 100)
            cells = " | ".join(f"{arms[arm].correct} of {arms[arm].n}" for arm in by_arm)
            lines.append(
                f"| {name} | {seed} | {cells} | {pair.difference * 100:+.1f} ({pair.low * 100:+.1f} to"
                f" {pair.high * 100:+.1f}) | {pair.p_value:.2g} |"
            )
        means = " | ".join(_spread(values) for values in by_arm.values())
        summary.append(f"| {name} | {means} | {_spread(differences, signed=True)} |")
    lines += ["", "Mean and standard deviation over the seeds, in per cent (pass@1) and points:", ""]
    lines += [
        "| questions | base | cot | lema | lema less cot |",
        "| --- | --- | --- | --- | --- |",
        *summary,
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


HEAD = """# The quickstart over {seeds} training seeds

Written by `benchmarks/quickstart_seeds.py`, as it came out. Same sampled paths, corrections and training files each
time; the seed of the training alone differs (first adapter weights, order of the examples). 1,000 test problems,
greedy, one answer each. Neither arm saw another question, more examples or more optimizer steps than the other.

The design (problems, learning rate, steps) was chosen on validation problems; these test problems were drawn after
that. Intervals and tests of a line speak of its questions with this seed; the spread below of the seeds.

Versions: {versions}.
"""


def _versions() -> str:
    names = ("lema-local", "llama-cpp-python", "torch", "transformers", "peft", "trl", "bitsandbytes")
    teacher = f"reference teacher {ReferenceTeacher().identity}"
    return ", ".join([*(f"{name} {version(name)}" for name in names), teacher])


def _spread(values: list[float], *, signed: bool = False) -> str:
    mean = statistics.mean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:+.1f} (sd {deviation:.1f})" if signed else f"{mean:.1f} (sd {deviation:.1f})"


def main() -> None:
    """Run the seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "quickstart-seeds.md")
    arguments = parser.parse_args()
    scores = {seed: run_seed(arguments.runs, seed) for seed in arguments.seeds}
    write_table(scores, arguments.out)
    print(json.dumps({"seeds": list(scores), "table": str(arguments.out)}))


if __name__ == "__main__":
    main()
