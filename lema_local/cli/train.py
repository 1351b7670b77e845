"""`lema train` and `lema export`: a training file to an adapter, an adapter to GGUF."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lema_local.cli.progress import notice, progress_bar

if TYPE_CHECKING:
    from lema_local.training.base import TrainSettings

_FILE_OR_FOLDER = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
MERGED_TYPES = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")


def _settings_options(command: Any) -> Any:
    """Add a flag per setting of a training; a flag that is not given leaves the paper's default."""
    options = (
        click.option(
            "--method", type=click.Choice(["qlora", "lora", "full", "dpo"]),
            help="4-bit base, base as it is, all weights without an adapter, or pairs [qlora; dpo for pairs].",
        ),
        click.option(
            "--memory", type=click.Choice(["auto", "8gb", "12gb", "16gb", "24gb"]),
            help="The card to lay out for; the result stays [auto: what is free].",
        ),
        click.option("--rank", "lora_rank", type=int, help="Width of the adapter [64]."),
        click.option("--alpha", "lora_alpha", type=float, help="The adapter is scaled by alpha / rank [16]."),
        click.option("--dropout", "lora_dropout", type=float, help="Dropout on the adapter's inputs [0.05]."),
        click.option("--learning-rate", type=float, help="[2e-4; from 34B parameters on 1e-4; --method full 1e-5]."),
        click.option(
            "--schedule", type=click.Choice(["constant", "linear", "cosine"]), help="Of the learning rate [constant]."
        ),
        click.option("--beta", "dpo_beta", type=float, help="Pairs: how strongly to hold to the base [0.1]."),
        click.option(
            "--dpo-learning-rate", type=float, help="For pairs [a fortieth of --learning-rate]."
        ),
        click.option("--batch-size", type=int, help="Examples per optimizer step [96]."),
        click.option("--micro-batch-size", type=int, help="Examples computed at once [as --memory has room for]."),
        click.option("--epochs", type=float, help="Passes through the examples [3]."),
        click.option("--max-steps", type=int, help="Optimizer steps, instead of --epochs."),
        click.option("--max-length", type=int, help="Longer examples (in tokens) are left out, never cut [1024]."),
        click.option("--packed/--padded", "is_packed", default=None, help="Rows without padding [packed on a GPU]."),
        click.option(
            "--checkpointing/--no-checkpointing", "has_gradient_checkpointing", default=None,
            help="Less memory, more time [where --memory asks for it].",
        ),
        click.option("--seed", type=int, help="Of first weights, order and dropout [0]."),
        click.option(
            "--validate-every", "validate_every_steps", type=int, help="Steps between looks at --validation [50]."
        ),
        click.option(
            "--report-to", type=click.Choice(["tensorboard", "wandb"]), multiple=True,
            help="Report losses there too; repeatable.",
        ),
        click.option("--save-every", "save_every_steps", type=int, help="Steps between checkpoints [50]."),
        click.option(
            "--prompt-style", type=click.Choice(["auto", "completion", "chat"]), default="auto", show_default=True,
            help="auto: chat where the student's GGUF has a template.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("train_path", metavar="TRAIN.jsonl|RUN", type=_FILE_OR_FOLDER)
@click.option("--base", metavar="MODEL_OR_GGUF", help="GGUF file, Hugging Face folder or hub name.")
@click.option("--out", "out_dir", type=_FOLDER, help="Folder for adapter/ and train_log.jsonl.")
@click.option("--base-gguf", type=_FILE, help="The GGUF that the adapter is for, where --base is none.")
@click.option(
    "--validation", "held_out_path", type=_FILE, help="Held-out examples; the best adapter is kept."
)
@_settings_options
@click.option("--dry-run", "is_dry", is_flag=True, help="Only say what training and export need, and stop.")
@click.option(
    "--show-launch",
    "cards",
    metavar="CARDS",
    type=click.IntRange(min=2),
    help="Only print the commands that train on so many cards, and stop.",
)
@click.option("--json", "is_json", is_flag=True, help="Print the result as JSON.")
def train(
    train_path: Path,
    base: str | None,
    out_dir: Path | None,
    base_gguf: Path | None,
    held_out_path: Path | None,
    prompt_style: Literal["auto", "completion", "chat"],
    is_dry: bool,
    cards: int | None,
    is_json: bool,
    **given: Any,
) -> None:
    """Fit a LoRA adapter to the base with the examples of TRAIN.jsonl (`lema build` writes them).

    A file of pairs (`lema build --format preference`) is learnt from by DPO.

    The same command again goes on from the last checkpoint. Given the folder of a RUN that is built, its arms are
    trained as its recipe says; `lema run` then goes on with the export.

    \b
    Example:
      lema train runs/mine/5_build/lema.jsonl --base student.gguf --out adapters/lema --epochs 2
      lema train lema.jsonl --base meta-llama/Llama-2-7b-hf --out x --memory 12gb --dry-run
      lema train runs/mine --show-launch 2
    """
    from lema_local.errors import InputError

    if cards is not None:
        _show_launch(cards)
        return
    given["report_to"] = given["report_to"] or None
    if train_path.is_dir():
        flags = [name for name, value in {**given, "base": base, "out": out_dir}.items() if value is not None]
        _train_run(train_path, flags, is_dry=is_dry, is_json=is_json)
        return
    if base is None or (out_dir is None and not is_dry):
        raise InputError(
            "which base is to be trained, and where is the adapter to go?", hint="give --base and --out"
        )
    if is_dry:
        _show_memory(base, _settings(given), is_json=is_json)
        return
    assert out_dir is not None
    gguf = base_gguf or (Path(base) if base.endswith(".gguf") else None)
    _train_file(train_path, base, out_dir, gguf, held_out_path, prompt_style, given, is_json=is_json)


def _train_file(
    train_path: Path,
    base: str,
    out_dir: Path,
    gguf: Path | None,
    held_out_path: Path | None,
    prompt_style: str,
    given: dict[str, Any],
    *,
    is_json: bool,
) -> None:
    from lema_local.formats import read_examples
    from lema_local.jsonl import read_records
    from lema_local.records import TrainingExample
    from lema_local.stages.train import train_arm
    from lema_local.training.base import Validation
    from lema_local.training.local import LocalTrainer

    examples = read_examples(train_path)
    validation = Validation(read_records(held_out_path, TrainingExample)) if held_out_path else None
    trainer = LocalTrainer(base, gguf)
    student = _open_student(gguf, prompt_style) if gguf else None
    style = student.prompt_style if student else ("completion" if prompt_style == "auto" else prompt_style)
    settings = _settings({**given, "prompt_style": style})
    with _only_main_talks(), progress_bar("train") as update:
        result = train_arm(
            examples,
            trainer,
            settings,
            out_dir,
            _show_on(update),
            student,
            validation=validation,
            tell=notice,
        )
    _print_result(result, is_json=is_json)


def _train_run(run_dir: Path, flags: list[str], *, is_dry: bool, is_json: bool) -> None:
    """Train the arms of a run that is built, in its folder and as its recipe says."""
    from lema_local.errors import InputError
    from lema_local.pipeline import Pipeline
    from lema_local.recipe import load_recipe
    from lema_local.runs import RunFolder
    from lema_local.training.processes import this_process
    from lema_local.wiring import student_file

    folder = RunFolder(run_dir)
    if not folder.recipe_path.is_file():
        raise InputError(f"{run_dir} is no run: it has no recipe.yaml", hint="lema run RECIPE --until build")
    if flags:
        raise InputError(
            f"{run_dir} is trained as its recipe says, so {', '.join(flags)} cannot be given here",
            hint="lema run RECIPE --run OTHER --set train.KEY=VALUE --until build, then lema train OTHER",
        )
    recipe = load_recipe(folder.recipe_path)
    if is_dry:
        _show_memory(recipe.student.base or student_file(recipe.student), recipe.train, is_json=is_json)
        return
    pipeline = Pipeline(recipe, folder, show=progress_bar, tell=notice, reuse=None)
    with _only_main_talks(), folder.lock() if this_process().is_main else nullcontext():
        results = [pipeline.fit_arm(name, pipeline.runner.path("train", name)) for name in pipeline.trainings]
    for result in results:
        _print_result(result, is_json=is_json)


@contextmanager
def _only_main_talks() -> Iterator[None]:
    """Of several processes that train together, one shows progress."""
    from lema_local.cli import progress
    from lema_local.training.processes import this_process

    was_quiet = progress.is_quiet
    progress.is_quiet = was_quiet or not this_process().is_main
    try:
        yield
    finally:
        progress.is_quiet = was_quiet


def _print_result(result: Any, *, is_json: bool) -> None:
    from lema_local.stages.report import write_model_card
    from lema_local.stages.train import describe_training
    from lema_local.training.processes import this_process

    if not this_process().is_main:
        return
    write_model_card(result.adapter_dir)
    if is_json:
        click.echo(json.dumps(asdict(result), default=str))
        return
    click.echo("\n".join(describe_training(result)))
    click.echo(f"{result.adapter_dir.name}: {result.adapter_dir}")


def _show_launch(cards: int) -> None:
    """Print what starts this very command on several cards."""
    from lema_local.training.processes import launch_commands

    arguments = list(sys.argv[1:])
    at = next(i for i, one in enumerate(arguments) if one.startswith("--show-launch"))
    del arguments[at : at + (1 if "=" in arguments[at] else 2)]
    for words, command in launch_commands(arguments, cards).items():
        click.echo(f"# {words}\n{command}")


def _show_memory(base: str, settings: TrainSettings, *, is_json: bool) -> None:
    """Print the estimate from the base's configuration alone: neither weights nor examples are read."""
    from lema_local.training.layout import plan_for_machine
    from lema_local.training.memory import describe_memory, estimate_export
    from lema_local.training.shapes import read_shape

    shape = read_shape(base)
    plan = plan_for_machine(shape, settings)
    if not is_json:
        click.echo("\n".join(describe_memory(shape, settings, plan)))
        return
    training = {**plan.estimate.parts(), "total": plan.estimate.total}
    export = asdict(estimate_export(shape, settings))
    click.echo(
        json.dumps(
            {"budget": plan.budget, "layout": asdict(plan.layout), "training": training, "export": export}
        )
    )


def _open_student(gguf: Path, prompt_style: Any) -> Any:
    from lema_local.students import open_student

    return open_student(str(gguf), prompt_style=prompt_style)


def _settings(given: dict[str, Any]) -> TrainSettings:
    from lema_local.cli.settings import check_settings
    from lema_local.training.base import TrainSettings

    named = {key: value for key, value in given.items() if value is not None}
    return check_settings(TrainSettings, named, "lema train")


def _show_on(update: Any) -> Any:
    def show(step: int, steps: int, values: dict[str, float]) -> None:
        update(step, steps, **{name: f"{value:.3g}" for name, value in values.items()})

    return show


@click.command()
@click.argument("adapter_dir", metavar="ADAPTER_DIR", type=_FOLDER)
@click.option("--base-gguf", required=True, type=_FILE, help="The base that llama.cpp runs the adapter on.")
@click.option("--out", "out_path", required=True, type=_FILE, help="The GGUF file to write.")
@click.option("--merge", "is_merged", is_flag=True, help="Write base and adapter as one model.")
@click.option(
    "--type", "kind", type=click.Choice(MERGED_TYPES), help="Number type of the merged model [f16]."
)
@click.option(
    "--prompt",
    metavar="NAME|FILE",
    help="What questions are put into, in the files for Ollama and llama-server.",
)
@click.option("--json", "is_json", is_flag=True, help="Print what was written as JSON.")
def export(
    adapter_dir: Path,
    base_gguf: Path,
    out_path: Path,
    is_merged: bool,
    kind: str | None,
    prompt: str | None,
    is_json: bool,
) -> None:
    """Write the adapter in ADAPTER_DIR as a GGUF LoRA file, or merged into its base.

    Beside OUT.gguf stand OUT.Modelfile for Ollama, OUT.llama-server.sh and OUT.chat_template.jinja.
    What `lema train --method full` wrote is written as a whole model, with tokenizer and template of the base GGUF.

    \b
    Example:
      lema export adapters/lema --base-gguf student.gguf --out lema.gguf
      llama-server -m student.gguf --lora lema.gguf
      lema export adapters/lema --base-gguf student.gguf --merge --type q4_0 --out lema-q4_0.gguf
      llama-server -m lema-q4_0.gguf
    """
    from lema_local.training.whole import find_trained, is_whole_model

    adapter_dir = find_trained(adapter_dir)
    is_merged = is_merged or is_whole_model(adapter_dir)
    if kind and not is_merged:
        raise click.UsageError("--type goes with --merge: an adapter of its own is not quantized")
    result = (
        _merge(adapter_dir, base_gguf, out_path, kind or "f16")
        if is_merged
        else _export(adapter_dir, base_gguf, out_path)
    )
    _write_use_files(adapter_dir, base_gguf, out_path, prompt, is_merged=is_merged)
    for note in result.pop("notes"):
        notice(f"Note: {note}")
    if is_json:
        click.echo(json.dumps(result, default=str))
    elif is_merged:
        click.echo(
            f"{out_path}: {result['type']}, {result['merged']} matrices merged, scale {result['scale']:g}, "
            f"{result['bytes']:,} bytes"
        )
    else:
        click.echo(
            f"{out_path}: {result['tensors']} tensors, scale {result['scale']:g}, {result['bytes']:,} bytes"
        )


def _write_use_files(
    adapter_dir: Path, base_gguf: Path, out_path: Path, prompt: str | None, *, is_merged: bool
) -> None:
    from lema_local.prompts import load_cot_prompt
    from lema_local.training.local import read_training_record
    from lema_local.wiring import write_use_files

    record = read_training_record(adapter_dir)
    write_use_files(
        out_path.parent, out_path if is_merged else base_gguf, None if is_merged else out_path,
        load_cot_prompt(prompt) if prompt else None, record.settings.prompt_style if record else "completion",
        name=out_path.stem.lower(), prefix=f"{out_path.stem}.",
    )  # fmt: skip


def _export(adapter_dir: Path, base_gguf: Path, out_path: Path) -> dict[str, Any]:
    from lema_local.training.export import export_adapter

    return asdict(export_adapter(adapter_dir, base_gguf, out_path))


def _merge(adapter_dir: Path, base_gguf: Path, out_path: Path, kind: str) -> dict[str, Any]:
    from lema_local.stages.export import write_merged
    from lema_local.students.inspection import requantize_gguf
    from lema_local.training.export import check_not_base
    from lema_local.training.merge import merge_adapter
    from lema_local.training.whole import export_whole_model, is_whole_model

    write = export_whole_model if is_whole_model(adapter_dir) else merge_adapter
    check_not_base(out_path, base_gguf)
    merged = write_merged(
        lambda path: write(adapter_dir, base_gguf, path),
        lambda source, target: requantize_gguf(source, target, kind),
        out_path,
    )
    return {**asdict(merged), "path": out_path, "type": kind, "bytes": out_path.stat().st_size}
