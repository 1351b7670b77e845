"""`lema evaluate`: one student on questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lema_local.cli.progress import notice, progress_bar

if TYPE_CHECKING:
    from lema_local.recipe import StudentBlock
    from lema_local.records import ArmComparison, ArmScore, Prediction, Question, ReasoningPath, Scores, Share


@click.command()
@click.argument("questions")
@click.option(
    "--student", required=True, metavar="GGUF", help="A GGUF file, hf:..., 'quickstart', or a name at a URL."
)
@click.option("--student-url", metavar="URL", help="An OpenAI-compatible endpoint that serves the student.")
@click.option(
    "--adapter", type=click.Path(path_type=Path, dir_okay=False), help="A GGUF LoRA adapter over it."
)
@click.option(
    "--out", "out_dir", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder."
)
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
    "--group-by", multiple=True, metavar="TAG", help="Tag of the questions to report by (repeatable)."
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many questions.")
@click.option("--json", "is_json", is_flag=True, help="Print the scores as JSON.")
def evaluate(
    questions: str,
    student: str,
    student_url: str | None,
    adapter: Path | None,
    out_dir: Path,
    prompt: str,
    prompt_style: str,
    max_tokens: int,
    group_by: tuple[str, ...],
    limit: int | None,
    is_json: bool,
) -> None:
    """Let a student answer QUESTIONS greedily and score it.

    Writes OUT/DATASET.jsonl (one prediction a question) and OUT/scores.json. The same command again goes on.

    \b
    Example:
      lema evaluate gsm8k:test.jsonl --student student.gguf --adapter runs/my/7_export/lema/adapter.gguf --out eval
    """
    from lema_local.recipe import QuestionSource, StudentBlock
    from lema_local.runs import write_text
    from lema_local.stages.evaluate import EvaluateSettings, score_predictions
    from lema_local.wiring import load_source

    asked = load_source(QuestionSource(source=questions, limit=limit))
    block = StudentBlock.model_validate({"model": student, "url": student_url, "prompt_style": prompt_style})
    settings = EvaluateSettings(max_tokens=max_tokens, group_by=list(group_by))
    arm = adapter.stem if adapter else "base"
    predictions = _predict(asked, block, adapter, prompt, max_tokens, out_dir, arm)
    scores = score_predictions(asked, {arm: predictions}, {arm: prompt}, settings)
    text = scores.model_dump_json(indent=2)
    write_text(out_dir / "scores.json", text + "\n")
    click.echo(text if is_json else "\n".join(describe_scores(scores)))


def _predict(
    asked: list[Question],
    block: StudentBlock,
    adapter: Path | None,
    prompt: str,
    max_tokens: int,
    out_dir: Path,
    arm: str,
) -> list[Prediction]:
    """Let the student answer all questions, one file per dataset."""
    from lema_local.prompts import load_cot_prompt
    from lema_local.sampling import predict_into_file
    from lema_local.stages.sample import greedy_settings
    from lema_local.wiring import open_run_student

    loaded = open_run_student(block, adapter=adapter)
    predictions: list[Prediction] = []
    try:
        with progress_bar(f"evaluate {arm}", len(asked)) as update:
            verdicts = Counter[str]()

            def note(paths: Sequence[ReasoningPath]) -> None:
                verdicts.update(path.verdict for path in paths)
                update(verdicts.total(), correct=verdicts["correct"])

            for dataset in dict.fromkeys(question.dataset for question in asked):
                predictions += predict_into_file(
                    out_dir / f"{dataset}.jsonl",
                    [question for question in asked if question.dataset == dataset],
                    loaded,
                    load_cot_prompt(prompt),
                    greedy_settings(max_tokens),
                    arm=arm,
                    on_paths=note,
                    on_refusal=lambda question, why: notice(f"{question.id} is left out: {why}"),
                )
    finally:
        loaded.close()
    return predictions


def describe_scores(scores: Scores) -> list[str]:
    """Return scores and what may be concluded, in lines for a terminal; the report says all of it."""
    compared = {one.group.partition("=")[0] for one in scores.comparisons if one.group}
    lines = []
    for one in scores.arms:
        lines.append(f"{one.dataset}, {one.arm}: {_describe_share(one.share)}{_describe_unanswered(one)}")
        for tag, groups in one.groups.items():
            if tag in compared or not scores.comparisons:
                lines += [f"  {tag}={value}: {_describe_share(share)}" for value, share in groups.items()]
    for comparison in scores.comparisons:
        lines += ["", _describe_comparison(comparison)]
    return lines


def _describe_share(share: Share) -> str:
    return f"{share.correct} of {share.n}, pass@1 {share.pass_at_1:.1%} (95 % {share.low:.1%} to {share.high:.1%})"


def _describe_unanswered(score: ArmScore) -> str:
    counts = {"no answer": score.no_answer, "truncated": score.truncated, "undecided": score.undecided}
    return "".join(f", {count} {name}" for name, count in counts.items() if count)


def _describe_comparison(one: ArmComparison) -> str:
    if one.group is None:
        power = f"This test could have shown a difference of {one.smallest_difference * 100:.1f} points."
        return f"{one.dataset}: {one.sentence} {power}"
    return (
        f"{one.dataset}, {one.group}: {one.second} less {one.first} = {one.difference * 100:+.1f} points"
        f" (95 % {one.low * 100:+.1f} to {one.high * 100:+.1f}; exact McNemar p = {one.p_value:.2g}, {one.n} questions)"
    )
