"""`lema sample`: reasoning paths of a student."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lema_local.cli.paths import SampleRecord, print_summary, show_list
from lema_local.cli.progress import notice, progress_bar

if TYPE_CHECKING:
    from lema_local.cli.progress import Update
    from lema_local.prompts import CotPrompt
    from lema_local.records import Question, ReasoningPath
    from lema_local.stages.sample import SampleSettings
    from lema_local.students.base import Student

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("questions")
@click.option(
    "--student",
    "spec",
    required=True,
    metavar="GGUF",
    help="A GGUF file, hf:OWNER/REPO/FILE.gguf, or a name at --student-url.",
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
    "--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True, help="0 is greedy."
)
@click.option("--top-k", type=click.IntRange(min=0), default=40, show_default=True, help="0: off.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=0.95, show_default=True)
@click.option("--min-p", type=click.FloatRange(min=0, max=1, max_open=True), default=0.0, show_default=True)
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
@click.option("--slots", type=click.IntRange(min=1, max=255), help="Paths decoded at once [chosen].")
@click.option("--threads", type=click.IntRange(min=1), help="[physical cores]")
@click.option(
    "--context-tokens", type=click.IntRange(min=1), help="Longest prompt and path together [as trained]."
)
@click.option(
    "--gpu-layers",
    type=click.IntRange(min=-1),
    default=0,
    show_default=True,
    help="Layers on the GPU; -1: all.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many questions.")
@click.option(
    "--show-prompt", is_flag=True, help="Print the first question's exact prompt and token ids, and stop."
)
@click.option("--json", "is_json", is_flag=True, help="Print the summary as JSON.")
def sample(
    questions: str,
    spec: str,
    url: str | None,
    adapters: tuple[str, ...],
    out_path: Path | None,
    prompt_name: str,
    prompt_style: Literal["auto", "chat", "completion"],
    slots: int | None,
    threads: int | None,
    context_tokens: int | None,
    gpu_layers: int,
    limit: int | None,
    show_prompt: bool,
    is_json: bool,
    **sampling: Any,
) -> None:
    """Sample reasoning paths of QUESTIONS from a student.

    \b
    Examples:
      lema sample gsm8k:train.jsonl --student model-q4_0.gguf --out paths.jsonl --samples 8
      lema sample questions.jsonl --student model.gguf --show-prompt
    """
    from lema_local.prompts import load_cot_prompt
    from lema_local.recipe import QuestionSource
    from lema_local.stages.sample import SampleSettings
    from lema_local.students import open_student
    from lema_local.wiring import load_source

    if out_path is None and not show_prompt:
        raise click.UsageError("Missing option '--out'.")
    asked = load_source(QuestionSource(source=questions, limit=limit))
    prompt = load_cot_prompt(prompt_name)
    settings = SampleSettings(**sampling)
    record = None if out_path is None else SampleRecord(out_path)
    made_from = describe_origin(spec, url, adapters, prompt_style, asked, prompt, settings)
    if record is not None and not show_prompt and record.is_finished(made_from):
        notice(f"{out_path}: finished before")
        print_summary(record.paths(), is_json)
        return
    student = open_student(
        spec,
        url=url,
        adapter=parse_adapters(adapters),
        prompt_style=prompt_style,
        slots=slots,
        threads=threads,
        context_tokens=context_tokens,
        gpu_layers=gpu_layers,
        chosen=record.chosen() if record is not None else None,
        on_chosen=record.save_chosen if record is not None and not show_prompt else None,
    )
    try:
        if show_prompt:
            print_prompt(student, prompt, asked[0])
        else:
            assert record is not None
            sample_into(record, asked, student, prompt, settings)
            print_summary(record.paths(), is_json)
    finally:
        student.close()


def parse_adapters(texts: Sequence[str]) -> tuple[tuple[Path, float], ...]:
    """Return (path, scale) of `FILE` or `FILE=SCALE` each."""
    found = []
    for text in texts:
        path, equals, scale = text.rpartition("=")
        try:
            found.append((Path(path), float(scale)) if equals else (Path(text), 1.0))
        except ValueError as err:
            raise click.UsageError(f"--adapter {text}: expected FILE or FILE=SCALE") from err
    return tuple(found)


def describe_origin(
    spec: str,
    url: str | None,
    adapters: Sequence[str],
    prompt_style: str,
    questions: Sequence[Question],
    prompt: CotPrompt,
    settings: SampleSettings,
) -> dict[str, Any]:
    """Return everything that can change the paths, by name."""
    from lema_local.runs import fingerprint, hash_file
    from lema_local.students import resolve_model_file

    student: dict[str, Any] = {"prompt_style": prompt_style}
    if url is None:
        student["sha256"] = hash_file(resolve_model_file(spec))
        student["adapters"] = [
            {"sha256": hash_file(path), "scale": scale} for path, scale in parse_adapters(adapters)
        ]
    else:
        student |= {"model": spec, "url": url}
    return {
        "student": student,
        "prompt": prompt.fingerprint,
        "questions": fingerprint({question.id: question.model_dump() for question in questions}),
        "sample": settings.model_dump(),
    }


def sample_into(
    record: SampleRecord,
    questions: Sequence[Question],
    student: Student,
    prompt: CotPrompt,
    settings: SampleSettings,
) -> None:
    """Sample into the record's file with a progress bar."""
    from lema_local.sampling import sample_into_file
    from lema_local.stages.sample import summarize_paths

    began = time.monotonic()
    refused: list[str] = []
    try:
        total = len(questions) * settings.samples_per_question
        with progress_bar("sample", total) as update:
            watch = SampleWatch(update)
            paths = sample_into_file(
                record.path,
                questions,
                student,
                prompt,
                settings,
                on_paths=watch,
                on_refusal=lambda question, reason: refused.append(f"{question.id}: {reason}"),
            )
    except BaseException:
        record.add_seconds(time.monotonic() - began)
        raise
    finally:
        show_list("question(s) left out", refused)
    record.finish(asdict(summarize_paths(paths)), time.monotonic() - began)


class SampleWatch:
    """Keeps the progress bar up to date: paths, mistakes, tokens a second."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._began: float | None = None
        self._paths = self._mistakes = self._tokens = 0

    def __call__(self, paths: Sequence[ReasoningPath]) -> None:
        """Count further paths; the first call is told what stood before."""
        self._paths += len(paths)
        self._mistakes += sum(path.verdict == "wrong" for path in paths)
        if self._began is None:
            self._began = time.monotonic()
        else:
            self._tokens += sum(path.completion_tokens or 0 for path in paths)
        speed = self._tokens / max(time.monotonic() - self._began, 0.1)
        self._update(self._paths, mistakes=self._mistakes, tokens_per_s=f"{speed:.0f}")


def print_prompt(student: Student, prompt: CotPrompt, question: Question) -> None:
    """Print exactly what the student is given for one question: text and token ids."""
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
