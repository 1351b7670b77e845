"""`lema evaluate` and `lema compare`: one arm on questions, and arms on the same questions."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.progress import notice, progress_bar
from lema_local.cli.student_options import ENGINE_NAMES, engine_options, make_block

if TYPE_CHECKING:
    from lema_local.prompts import CotPrompt
    from lema_local.recipe import StudentBlock
    from lema_local.records import ArmComparison, ArmScore, Prediction, Question, ReasoningPath, Scores, Share
    from lema_local.runs import Manifest, StageFolder
    from lema_local.stages.evaluate import EvaluateSettings
    from lema_local.stages.sample import SampleSettings
    from lema_local.students.base import Student

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("questions", nargs=-1, required=True)
@click.option(
    "--student", required=True, metavar="GGUF", help="A GGUF file, hf:..., 'quickstart', or a name at a URL."
)
@click.option("--student-url", metavar="URL", help="An OpenAI-compatible endpoint that serves the student.")
@click.option(
    "--adapter", type=click.Path(path_type=Path, dir_okay=False), help="A GGUF LoRA adapter over it."
)
@click.option("--out", "out_dir", required=True, type=_FOLDER, help="Folder.")
@click.option("--arm", metavar="NAME", help="What to call this student [base, or the adapter's file].")
@click.option("--prompt", default="cot-zero-shot", show_default=True, help="A prompt's name or file.")
@click.option(
    "--prompt-style",
    type=click.Choice(["auto", "chat", "completion"]),
    default="auto",
    show_default=True,
    help="Adapters of lema are trained on 'completion'.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Further answers a question, sampled, for pass@k and maj@k.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=0.7,
    show_default=True,
    help="Of these.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of these.")
@click.option(
    "--group-by",
    multiple=True,
    metavar="TAG",
    help="Tag of the questions to report by (repeatable) [level, subject, steps].",
)
@engine_options
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many of each QUESTIONS.")
@click.option("--json", "is_json", is_flag=True, help="Print the scores as JSON.")
def evaluate(
    questions: tuple[str, ...],
    student: str,
    student_url: str | None,
    adapter: Path | None,
    out_dir: Path,
    arm: str | None,
    prompt: str,
    prompt_style: str,
    limit: int | None,
    is_json: bool,
    **given: Any,
) -> None:
    """Let a student answer QUESTIONS (one or more datasets) greedily, and score it.

    Writes OUT/DATASET.jsonl (one prediction a question), OUT/sampled/DATASET.jsonl with --samples, and
    OUT/scores.json. The same command again goes on; `lema compare` sets two such folders side by side.

    \b
    Example:
      lema evaluate gsm8k:test.jsonl svamp:SVAMP.json --student student.gguf --out eval/base
      lema evaluate gsm8k:test.jsonl --student student.gguf --adapter runs/my/7_export/lema/adapter.gguf \\
        --prompt-style completion --samples 8 --out eval/lema
    """
    from lema_local.prompts import load_cot_prompt
    from lema_local.recipe import QuestionSource
    from lema_local.runs import write_text
    from lema_local.stages.evaluate import EvaluateSettings, score_predictions
    from lema_local.wiring import load_source

    asked = [one for spec in questions for one in load_source(QuestionSource(source=spec, limit=limit))]
    _refuse_repeated(asked)
    block = make_block(student, student_url, prompt_style, given)
    groups = {"group_by": list(given.pop("group_by"))} if given["group_by"] else {}
    given.pop("group_by", None)
    scoring = {name: value for name, value in given.items() if name not in ENGINE_NAMES}
    settings = EvaluateSettings.model_validate(scoring | groups)
    row = arm or (adapter.stem if adapter else "base")
    loaded = load_cot_prompt(prompt)
    greedy, sampled = _answer(asked, block, adapter, loaded, settings, out_dir, row)
    scores = score_predictions(asked, {row: greedy}, {row: loaded.name}, settings, sampled={row: sampled})
    text = scores.model_dump_json(indent=2)
    write_text(out_dir / "scores.json", text + "\n")
    click.echo(text if is_json else "\n".join(describe_scores(scores)))


def _refuse_repeated(asked: Sequence[Question]) -> None:
    from lema_local.errors import InputError

    twice = [key for key, count in Counter(one.id for one in asked).items() if count > 1]
    if twice:
        raise InputError(
            f"{len(twice)} question(s) are given twice, the first is {twice[0]}", hint="name each source once"
        )


def _answer(
    asked: list[Question],
    block: StudentBlock,
    adapter: Path | None,
    prompt: CotPrompt,
    settings: EvaluateSettings,
    out_dir: Path,
    arm: str,
) -> tuple[list[Prediction], list[Prediction]]:
    """Return the greedy and the sampled predictions, made now or at an earlier start."""
    from lema_local.runs import StageFolder, fingerprint, hash_file
    from lema_local.sampling import evaluation_settings
    from lema_local.wiring import open_run_student, student_identity

    made_from = {
        "questions": fingerprint({one.id: one.model_dump() for one in asked}),
        "student": student_identity(block) | ({"adapter": hash_file(adapter)} if adapter else {}),
        "arm": arm,
        "prompt": prompt.fingerprint,
        "evaluate": settings.model_dump(exclude={"group_by", "compare_groups", "base_zero_shot"}),
    }
    folder = StageFolder(out_dir)
    started = _begin(folder, made_from)
    began = time.monotonic()
    student = open_run_student(
        block,
        adapter=adapter,
        chosen=started.chosen.get("chosen"),
        on_chosen=lambda chosen: folder.save_started(
            started.model_copy(update={"chosen": {"chosen": chosen}})
        ),
    )
    try:
        greedy, drawn = evaluation_settings(settings)
        found = _predict(asked, student, prompt, greedy, out_dir, arm)
        further = _predict(asked, student, prompt, drawn, out_dir / "sampled", arm) if drawn else []
    finally:
        student.close()
    done = (folder.started() or started).model_copy(
        update={"seconds": round(time.monotonic() - began, 3), "counts": {arm: len(found) + len(further)}}
    )
    folder.save_manifest(done)
    return found, further


def _begin(folder: StageFolder, made_from: dict[str, Any]) -> Manifest:
    """Return what this folder is being made from; refuse one that holds something else."""
    from lema_local.errors import RunStateError
    from lema_local.runs import Manifest, changed_settings, fingerprint

    mark = fingerprint(made_from)
    standing = folder.manifest() or folder.started()
    if standing is None:
        if any(folder.path.glob("*.jsonl*")):
            raise RunStateError(
                f"{folder.path} holds files that lema evaluate did not make", hint="another --out"
            )
        standing = Manifest(stage="evaluate", fingerprint=mark, made_from=made_from)
        folder.save_started(standing)
    if standing.fingerprint != mark:
        changes = "\n".join(f"  - {line}" for line in changed_settings(standing.made_from, made_from))
        raise RunStateError(
            f"{folder.path} was begun with other settings:\n{changes}",
            hint=f"another --out, the old settings, or delete {folder.path}",
        )
    return standing


def _predict(
    asked: Sequence[Question],
    student: Student,
    prompt: CotPrompt,
    settings: SampleSettings,
    out_dir: Path,
    arm: str,
) -> list[Prediction]:
    """Let the student answer all questions, one file per dataset."""
    from lema_local.sampling import predict_into_file

    predictions: list[Prediction] = []
    title = f"evaluate {arm}" + (" (sampled)" if settings.temperature else "")
    with progress_bar(title, len(asked) * settings.samples_per_question) as update:
        verdicts = Counter[str]()

        def note(paths: Sequence[ReasoningPath]) -> None:
            verdicts.update(path.verdict for path in paths)
            update(verdicts.total(), correct=verdicts["correct"])

        for dataset in dict.fromkeys(question.dataset for question in asked):
            predictions += predict_into_file(
                out_dir / f"{dataset}.jsonl",
                [question for question in asked if question.dataset == dataset],
                student,
                prompt,
                settings,
                arm=arm,
                on_paths=note,
                on_refusal=lambda question, why: notice(f"{question.id} is left out: {why}"),
            )
    return predictions


# --- compare ------------------------------------------------------------------------------------------------


@click.command()
@click.argument(
    "folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--json", "is_json", is_flag=True, help="Print the comparisons as JSON.")
def compare(folders: tuple[Path, ...], is_json: bool) -> None:
    """Compare arms that answered the same questions: FOLDERS of `lema evaluate`, or of a run's 8_evaluate.

    Exact McNemar test and paired bootstrap interval for every two arms on each dataset, Holm's correction over
    arms and datasets, the smallest difference that the test could have shown, and what may be concluded.

    \b
    Example:
      lema compare eval/base eval/lema
      lema compare runs/a/8_evaluate/lema runs/b/8_evaluate/lema
    """
    from lema_local.errors import InputError
    from lema_local.stages.evaluate import compare_predictions

    if len(folders) < 2:
        raise InputError("one folder cannot be compared with anything", hint="name two or more")
    arms = {
        name: _read_predictions(folder) for name, folder in zip(_row_names(folders), folders, strict=True)
    }
    found = compare_predictions(arms)
    if not found:
        raise InputError(
            "no two of these answered the same question of the same dataset",
            hint="evaluate them on the same QUESTIONS",
        )
    if is_json:
        click.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=2))
        return
    click.echo("\n\n".join(_describe_comparison(one) for one in found))


def _row_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' own names where these differ, else their paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _read_predictions(folder: Path) -> dict[str, list[Prediction]]:
    from lema_local.errors import InputError
    from lema_local.jsonl import read_records
    from lema_local.records import Prediction

    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise InputError(f"{folder} holds no predictions", hint="name a folder that lema evaluate finished")
    return {path.stem: read_records(path, Prediction) for path in files}


# --- words --------------------------------------------------------------------------------------------------


GROUPS_SHOWN = 12
"""Comparisons by group; where many arms give more of them, a terminal would show little else."""


def describe_scores(scores: Scores) -> list[str]:
    """Return scores and what may be concluded, in lines for a terminal; the report says all of it."""
    compared = {one.group.partition("=")[0] for one in scores.comparisons if one.group}
    lines = []
    for one in scores.arms:
        lines.append(f"{one.dataset}, {one.arm}: {_describe_share(one.share)}{_describe_unanswered(one)}")
        lines += _describe_sampled(one)
        for tag, groups in one.groups.items():
            if tag in compared or not scores.comparisons:
                lines += [f"  {tag}={value}: {_describe_share(share)}" for value, share in groups.items()]
    grouped = sum(one.group is not None for one in scores.comparisons)
    for comparison in scores.comparisons:
        if comparison.group is None or grouped <= GROUPS_SHOWN:
            lines += ["", _describe_comparison(comparison)]
    if grouped > GROUPS_SHOWN:
        lines += ["", f"{grouped} comparisons by group stand in the scores and in the report."]
    for spread in scores.seeds:
        lines += ["", f"{spread.dataset}: {spread.sentence}"]
    for best in scores.paper_style:
        lines += ["", f"{best.dataset}: {best.sentence}"]
    return lines


def _describe_share(share: Share) -> str:
    return f"{share.correct} of {share.n}, pass@1 {share.pass_at_1:.1%} (95 % {share.low:.1%} to {share.high:.1%})"


def _describe_unanswered(score: ArmScore) -> str:
    counts = {"no answer": score.no_answer, "truncated": score.truncated, "undecided": score.undecided}
    total = max(score.share.n, 1)
    return "".join(f", {name} {count} ({count / total:.1%})" for name, count in counts.items() if count)


def _describe_sampled(score: ArmScore) -> list[str]:
    found = score.sampled
    if found is None:
        return []
    lines = [
        f"  {found.samples} samples a question, temperature {found.temperature:g}, {found.questions} questions:"
    ]
    kinds: Mapping[str, Mapping[int, Any]] = {"pass": found.pass_at_k, "maj": found.maj_at_k}
    lines += [
        f"    {kind}@{k} {one.value:.1%} (95 % {one.low:.1%} to {one.high:.1%})"
        for kind, values in kinds.items()
        for k, one in values.items()
    ]
    return lines


def _describe_comparison(one: ArmComparison) -> str:
    if one.group is None:
        power = f"This test could have shown a difference of {one.smallest_difference * 100:.1f} points."
        return f"{one.dataset}: {one.sentence} {power}"
    holm = (
        f", {one.p_holm:.2g} with Holm's correction for {one.tests} tests" if one.p_holm is not None else ""
    )
    return (
        f"{one.dataset}, {one.group}: {one.second} less {one.first} = {one.difference * 100:+.1f} points"
        f" (95 % {one.low * 100:+.1f} to {one.high * 100:+.1f}; exact McNemar p = {one.p_value:.2g}{holm},"
        f" {one.n} questions)"
    )
