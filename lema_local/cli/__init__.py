"""The `lema` command: parse, call, print. One module per group of commands, imported when it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local import __version__
from lema_local.errors import LemaError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FIRST = """\
Let a small language model learn from its mistakes on your own hardware.

  lema quickstart       the whole loop on embedded problems: offline, a few minutes
  lema init             a few questions, and a recipe of your own
  lema run RECIPE       run it; the same command again goes on
  lema report RUN       what came of it

lema --help lists everything; lema doctor says what works on this machine."""
"""What `lema` alone shows."""

COMMANDS = {
    "quickstart": ("run:quickstart", "The whole loop on embedded problems: no network, key or GPU."),
    "init": ("init:init", "Ask a few questions and write a recipe."),
    "run": ("run:run", "Run a recipe from questions to report, or go on with it."),
    "plan": ("plan:plan", "Say what a run will take, before anything is spent."),
    "recipes": ("recipes:recipes", "List, show, check or copy recipes."),
    "status": ("status:status", "Say where a run stands, and what to type next."),
    "doctor": ("doctor:doctor", "Say what works on this machine, and what mends the rest."),
    "report": ("run:report", "Write report.html and report.md of a run again."),
    "review": ("review:review", "Grade corrections in your browser, on this machine only."),
    "sample": ("sample:sample", "Sample reasoning paths from a student."),
    "import-paths": ("import_paths:import_paths", "Take over reasoning paths made elsewhere."),
    "correct": ("teachers:correct", "Let a teacher correct the mistakes among paths."),
    "batch": (
        "batch:batch",
        "Let a teacher correct by batches: files of requests, answered within a day at batch prices.",
    ),
    "augment": ("teachers:augment", "Let a teacher write further rationales."),
    "evolve": ("evolve:evolve", "Let a teacher write new questions after those that were corrected."),
    "teachers": ("bench:teachers", "List teachers, or compare them on a sample of mistakes."),
    "reparse": ("reparse:reparse", "Read the replies behind corrections again, free of charge."),
    "filter": ("build:filter_command", "Split corrections into accepted and rejected ones."),
    "build": ("build:build", "Build the training files of the arms."),
    "train": ("train:train", "Fine-tune a student on a training file."),
    "export": ("train:export", "Bring an adapter into GGUF."),
    "chat": ("chat:chat", "Ask a run's student questions in the terminal."),
    "push": ("push:push", "Publish an adapter on the hub, when told to."),
    "evaluate": ("evaluate:evaluate", "Evaluate a student on questions."),
    "compare": ("evaluate:compare", "Compare arms that answered the same questions."),
    "curve": ("curve:curve", "Train on nested subsets of a run's corrections: would more help?"),
    "grade": ("grade:grade", "Grade answers against gold answers."),
    "audit": ("audit:audit", "List a run's answers on which two scorers disagree."),
    "dataset": ("datasets:dataset", "Check questions; share corrections, or take in those of others."),
    "students": ("students:students", "Inspect or requantize a student."),
    "keys": ("keys:keys", "Keep providers' keys."),
    "journal": ("teachers:journal", "Look into the journal of teachers' replies."),
    "completion": ("completion:completion", "Print what lets a shell complete lema's commands."),
}
"""Name: (module:attribute below lema_local.cli, the help line)."""
OTHER_NAMES = {"datasets": "dataset"}
"""What a command was called before: still understood, not listed."""


def _set_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from lema_local.cli import progress

        progress.is_quiet = True


def _set_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from lema_local.cli.logs import log_to_stderr

        log_to_stderr()


def _set_log_file(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        from lema_local.cli.logs import log_to_file

        log_to_file(value)


def common_options(*, is_hidden: bool) -> list[click.Option]:
    """Return the options that may stand before a command and after it."""
    return [
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False, hidden=is_hidden, callback=_set_quiet,
            help="No progress on stderr.",
        ),
        click.Option(
            ["-v", "--verbose"], is_flag=True, expose_value=False, hidden=is_hidden, callback=_set_verbose,
            help="More detail on stderr.",
        ),
        click.Option(
            ["--log-file"], type=click.Path(path_type=Path, dir_okay=False), expose_value=False,
            hidden=is_hidden, callback=_set_log_file, help="Append all that is told to a file, with the time.",
        ),
    ]  # fmt: skip


def add_common_options(command: click.Command) -> None:
    """Let the common options stand after a command as well, and after those of a group."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_common_options(inner)
    elif not any(param.name == "log_file" for param in command.params):
        command.params += common_options(is_hidden=True)


class LemaGroup(click.Group):
    """A group that loads its commands late and turns a `LemaError` into a message and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Begin afresh: several commands may run in one process."""
        from lema_local.cli import logs, progress

        progress.is_quiet = False
        logs.end_logs()
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command; None where there is no such command."""
        cmd_name = OTHER_NAMES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(f"lema_local.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        add_common_options(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands from the table, without importing them, and options."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(n, help=text) for n, (_, text) in COMMANDS.items() if n.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command where there is no such one."""
        if args and not args[0].startswith("-") and args[0] not in (*COMMANDS, *OTHER_NAMES):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f" (did you mean '{near[0]}'?)" if near else ""
            raise click.UsageError(f"no such command '{args[0]}'{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; say what went wrong in one message."""
        try:
            return super().invoke(ctx)
        except LemaError as err:
            if ctx.obj and ctx.obj["debug"]:
                raise
            from lema_local.cli.logs import LOGGER, note_shown
            from lema_local.teachers.secrets import mask_secrets

            note_shown(str(err))
            LOGGER.debug("where it was raised", exc_info=True)
            click.echo(f"Error: {mask_secrets(str(err))}", err=True)
            if err.hint:
                click.echo(f"Try: {mask_secrets(err.hint)}", err=True)
            ctx.exit(err.exit_code)
        except KeyboardInterrupt:
            from lema_local.cli.interrupts import command_again, end_of_work

            end_of_work()
            click.echo(f"\nInterrupted; what was written is kept. To go on: {command_again()}", err=True)
            ctx.exit(130)


@click.group(
    cls=LemaGroup,
    params=[*common_options(is_hidden=False)],
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="lema")
@click.option("--debug", is_flag=True, help="Show a traceback instead of a message.")
@click.pass_context
def lema(ctx: click.Context, debug: bool) -> None:
    """Let a small language model learn from its mistakes on your own hardware.

    \b
    Example:
      lema quickstart -q --log-file quickstart.log
    """
    import os

    if os.environ.get("NO_COLOR"):
        ctx.color = False
    ctx.obj = {"debug": debug}
    if ctx.invoked_subcommand is None:
        click.echo(FIRST)


def main() -> None:
    """Entry point of the `lema` command."""
    from lema_local.cli.interrupts import hear_interrupts

    hear_interrupts()
    lema(prog_name="lema")
