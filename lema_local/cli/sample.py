"""`lema sample`: reasoning paths of a student."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.paths import SampleRecord, print_summary, show_list
from lema_local.cli.progress import notice, progress_bar
from lema_local.cli.student_options import ENGINE_NAMES, engine_options, make_block, parse_adapters

if TYPE_CHECKING:
    from lema_local.prompts import CotPrompt
    from lema_local.recipe import StudentBlock
    from lema_local.records import Question
    from lema_local.stages.sample import SampleSettings
    from lema_local.students.base import Student

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("questions")
@click.option(
    "--student",
    "models",
    required=True,
    multiple=True,
    metavar="GGUF",
    help="A GGUF file, hf:OWNER/REPO/FILE.gguf, or a name at --student-url. Repeatable: each answers every question.",
)
@click.option(
    "--student-url", "url", metavar="URL", help="An OpenAI-compatible endpoint that serves the student."
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="GGUF[=SCALE]",
    help="A GGUF LoRA adapter over it (repeatable).",
)
@click.option(
    "--out",
    "out_path",
    type=_FILE,
    metavar="PATHS",
    help="Where the paths go; the same command again goes on.",
)
@click.option(
    "--samples",
    "samples_per_question",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Paths per question.",
)
@click.option(
    "--max-samples",
    "max_samples_per_question",
    type=click.IntRange(min=1),
    help="Up to so many paths for questions with fewer mistakes or right answers than wanted.",
)
@click.option(
    "--wanted-mistakes",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="With --max-samples: go on with a question until it has so many different mistakes.",
)
@click.option(
    "--wanted-correct",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="With --max-samples: the same for right answers.",
)
@click.option(
    "--max-mistakes-per-question", type=click.IntRange(min=1), help="Keep so many mistakes a question [all]."
)
@click.option(
    "--stop-after-mistakes", type=click.IntRange(min=1), help="Stop once so many mistakes are kept in all."
)
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True, help="0 is greedy."
)
@click.option("--top-k", type=click.IntRange(min=0), default=40, show_default=True, help="0: off.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=0.95, show_default=True)
@click.option("--min-p", type=click.FloatRange(min=0, max=1, max_open=True), default=0.0, show_default=True)
@click.option(
    "--repeat-penalty",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Above 1: the last 64 tokens become less likely.",
)
@click.option("--stop", multiple=True, help="End a path before this string (repeatable).")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest path."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--exact", is_flag=True, help="An interrupted run gives the same bytes as an uninterrupted one."
)
@click.option(
    "--prompt",
    "prompt_name",
    default="cot-gsm8k",
    show_default=True,
    metavar="NAME",
    help="A prompt's name or file.",
)
@click.option(
    "--prompt-style", type=click.Choice(["auto", "chat", "completion"]), default="auto", show_default=True
)
@engine_options
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many questions.")
@click.option(
    "--show-prompt", is_flag=True, help="Print the first question's exact prompt and token ids, and stop."
)
@click.option("--json", "is_json", is_flag=True, help="Print the summary as JSON.")
def sample(
    questions: str,
    models: tuple[str, ...],
    url: str | None,
    adapters: tuple[str, ...],
    out_path: Path | None,
    prompt_name: str,
    prompt_style: str,
    limit: int | None,
    show_prompt: bool,
    is_json: bool,
    **given: Any,
) -> None:
    """Sample reasoning paths of QUESTIONS from a student.

    \b
    Examples:
      lema sample gsm8k:train.jsonl --student model-q4_0.gguf --out paths.jsonl --samples 8
      lema sample questions.jsonl --student model.gguf --show-prompt
      lema sample math:MATH --student a.gguf --student b.gguf --out paths.jsonl --samples 2 \
        --max-samples 16 --wanted-mistakes 2 --stop-after-mistakes 5000
    """
    from lema_local.prompts import load_cot_prompt
    from lema_local.recipe import QuestionSource
    from lema_local.wiring import load_source

    if out_path is None and not show_prompt:
        raise click.UsageError("Missing option '--out'.")
    if adapters and len(models) > 1:
        raise click.UsageError("--adapter goes with one --student.")
    asked = load_source(QuestionSource(source=questions, limit=limit))
    prompt = load_cot_prompt(prompt_name)
    scaled = parse_adapters(adapters)
    blocks = [make_block(model, url, prompt_style, given) for model in models]
    settings = _settings(given)
    if show_prompt:
        print_prompt(blocks[0], scaled, prompt, asked[0])
        return
    assert out_path is not None
    record = SampleRecord(out_path)
    if record.is_finished(describe_origin(blocks, scaled, asked, prompt, settings)):
        notice(f"{out_path}: finished before")
    else:
        sample_into(record, asked, blocks, scaled, prompt, settings)
    print_summary(record.summary(), is_json, record.seconds)


def _settings(given: dict[str, Any]) -> SampleSettings:
    from lema_local.cli.settings import check_settings
    from lema_local.stages.sample import SampleSettings

    sampling = {name: value for name, value in given.items() if name not in ENGINE_NAMES}
    return check_settings(SampleSettings, sampling, "lema sample")


def describe_origin(
    blocks: Sequence[StudentBlock],
    adapters: Sequence[tuple[Path, float]],
    questions: Sequence[Question],
    prompt: CotPrompt,
    settings: SampleSettings,
) -> dict[str, Any]:
    """Return everything that can change the paths, by name."""
    from lema_local.runs import fingerprint, hash_file
    from lema_local.wiring import student_identity

    students = [student_identity(block) for block in blocks]
    over = [{"sha256": hash_file(path), "scale": scale} for path, scale in adapters]
    return {
        "student": students[0] | ({"adapters": over} if over else {}),
        **({"other_students": students[1:]} if students[1:] else {}),
        "prompt": prompt.fingerprint,
        "questions": fingerprint({question.id: question.model_dump() for question in questions}),
        "sample": settings.model_dump(),
    }


def sample_into(
    record: SampleRecord,
    questions: Sequence[Question],
    blocks: Sequence[StudentBlock],
    adapters: Sequence[tuple[Path, float]],
    prompt: CotPrompt,
    settings: SampleSettings,
) -> None:
    """Sample into the record's file with a progress bar."""
    from lema_local.sampling import SampleWatch, expected_paths, sample_into_file
    from lema_local.wiring import LentStudents

    began = time.monotonic()
    refused: list[str] = []
    lent = LentStudents(
        blocks, adapters=adapters, chosen=record.chosen(), on_chosen=record.save_chosen, tell=notice
    )
    try:
        with progress_bar("sample", expected_paths(len(questions), len(blocks), settings)) as update:
            sampled = sample_into_file(
                record.path,
                questions,
                lent.openers,
                prompt,
                settings,
                on_paths=SampleWatch(update),
                on_refusal=lambda question, reason: refused.append(f"{question.id}: {reason}"),
            )
    except BaseException:
        record.add_seconds(time.monotonic() - began)
        raise
    finally:
        show_list("question(s) left out", refused)
    record.finish(sampled.summary.model_dump(), time.monotonic() - began)


def print_prompt(
    block: StudentBlock, adapters: Sequence[tuple[Path, float]], prompt: CotPrompt, question: Question
) -> None:
    """Print exactly what the student is given for one question: text and token ids."""
    from lema_local.wiring import open_run_student

    student = open_run_student(block, adapter=adapters)
    try:
        _print_prompt(student, prompt, question)
    finally:
        student.close()


def _print_prompt(student: Student, prompt: CotPrompt, question: Question) -> None:
    from lema_local.students.llamacpp import LlamaStudent

    rendered = prompt.render(question, student.prompt_style)
    if not isinstance(student, LlamaStudent):
        click.echo(
            rendered if isinstance(rendered, str) else json.dumps(rendered, ensure_ascii=False, indent=2)
        )
        notice("The endpoint's own template and tokens are not known here.")
        return
    click.echo(student.render(rendered))
    tokens = student.tokenize(rendered).tolist()
    notice(f"{student.prompt_style} style, {len(tokens)} tokens:")
    notice(" ".join(f"{token}:{student.token_text(token)!r}" for token in tokens))
