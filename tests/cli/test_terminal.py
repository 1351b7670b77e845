"""The terminal: help, options that stand anywhere, log files, Ctrl-C, completion. Processes of their own."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command import LEMA, environment, hear_interrupts, start, tiny
from command import lema as lema_process

from lema_local.cli import COMMANDS, lema


def all_commands() -> Iterator[tuple[str, click.Command]]:
    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        for inner, one in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {inner}", one)

    for name in COMMANDS:
        command = lema.get_command(click.Context(lema), name)
        assert command is not None
        yield from walk(name, command)


def test_lema_alone_shows_the_four_commands_that_a_newcomer_needs() -> None:
    shown = CliRunner().invoke(lema, []).output
    named = [line.split()[1] for line in shown.splitlines() if line.startswith("  lema ")]
    assert named == ["quickstart", "init", "run", "report"]
    assert set(named) <= set(COMMANDS)


def test_every_help_holds_an_example_of_that_command() -> None:
    without = []
    for name, command in all_commands():
        _, found, after = (command.help or "").partition("Example")
        if not found or f"lema {name}" not in after:
            without.append(name)
    assert without == []


def test_help_takes_less_than_a_third_of_a_second_of_processor_time(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert lema_process("--help", home=tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


@pytest.mark.parametrize("command", [name for name, _ in all_commands()])
def test_the_common_options_stand_before_and_after_every_command(command: str) -> None:
    found = dict(all_commands())[command]
    if not isinstance(found, click.Group):
        assert {"quiet", "verbose", "log_file"} <= {param.name for param in found.params}
        flags = [flag for param in found.params for flag in param.opts]
        assert len(flags) == len(set(flags))


def test_quiet_says_nothing_and_the_log_file_everything(tmp_path: Path) -> None:
    log, run = tmp_path / "logs/run.log", tmp_path / "run"
    flags = (*tiny(), "--until", "questions")
    done = lema_process(
        "quickstart", "--run", run, *flags, "-q", "--log-file", log, home=tmp_path, X_API_KEY="verysecretkey"
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = log.read_text()
    assert "lema quickstart --run" in text
    assert "questions: done" in text
    assert "is made from" in text
    again = ("--log-file", str(log), "quickstart", "--run", run, *flags, "--set", "name=verysecretkey/")
    failed = lema_process(*again, home=tmp_path, X_API_KEY="verysecretkey")
    assert failed.returncode == 2
    text = log.read_text()
    assert "RecipeError" in text  # with its traceback, for a report of a problem
    assert "verysecretkey" not in text


def test_verbose_tells_more_and_colours_only_on_a_terminal(tmp_path: Path) -> None:
    command = ("quickstart", "--run", tmp_path / "run", *tiny(), "--until", "questions")
    plain = lema_process(*command, home=tmp_path)
    told = lema_process("-v", *command, home=tmp_path)
    assert "is made from" not in plain.stderr
    assert "is made from" in told.stderr
    assert (
        "\x1b"
        not in plain.stderr + told.stderr + lema_process("status", tmp_path / "run", home=tmp_path).stdout
    )


def test_a_log_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = lema_process("recipes", "list", "--log-file", tmp_path / "file/x.log", home=tmp_path)
    assert done.returncode == 2
    assert "--log-file" in done.stderr
    assert "Traceback" not in done.stderr


# --- Ctrl-C -----------------------------------------------------------------------------------------------------

BUSY = """
import hashlib, sys
sys.argv = ["lema", "sample", "--out", "a b"]
from lema_local.cli.interrupts import hear_interrupts
hear_interrupts()
print("at work", flush=True)
hashlib.pbkdf2_hmac("sha256", b"x", b"y", 6_000_000)  # Python cannot look into it, as into a decode
print("not reached", flush=True)
"""


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=hear_interrupts,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    time.sleep(0.3)
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_is_acknowledged_while_a_library_computes(busy: subprocess.Popen[str]) -> None:
    assert busy.stderr is not None
    busy.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert busy.stderr.readline() == "\n"
    assert busy.stderr.readline().startswith("Stopping after the decode or step in progress")
    assert time.monotonic() - began < 0.5
    assert busy.poll() is None  # the computation goes on


def test_a_second_ctrl_c_ends_it_at_once_and_names_the_command(busy: subprocess.Popen[str]) -> None:
    assert busy.stderr is not None
    busy.send_signal(signal.SIGINT)
    busy.stderr.readline()
    busy.send_signal(signal.SIGINT)
    began = time.monotonic()
    stdout, stderr = busy.communicate(timeout=60)
    assert time.monotonic() - began < 0.5
    assert busy.returncode == 130
    assert "To go on: lema sample --out 'a b'" in stderr
    assert "not reached" not in stdout


SWALLOWED = """
import ctypes, os, signal, threading, weakref
from lema_local.cli.interrupts import hear_interrupts
hear_interrupts()

def is_interrupted(*_):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # Python looks for signals in here
        pass

class Thing:
    pass

class Deleted:
    __del__ = is_interrupted

def delete():
    Deleted()

def end_watched():
    thing = Thing()
    watch = weakref.ref(thing, is_interrupted)
    del thing

def call_from_c():
    ctypes.CFUNCTYPE(None)(is_interrupted)()

try:
    {way}()
    print("goes on", flush=True)
    threading.Event().wait(30)
    print("to its end")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("way", ["delete", "end_watched", "call_from_c"])
def test_a_ctrl_c_that_python_swallows_is_heard_all_the_same(way: str) -> None:
    command = [sys.executable, "-c", SWALLOWED.replace("{way}", way)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, preexec_fn=hear_interrupts
    )
    assert done.stdout == "goes on\ninterrupted\n"
    assert "Exception ignored" not in done.stderr
    assert "at once; what was written" not in done.stderr  # that is for a second one


def test_a_run_that_is_interrupted_keeps_its_paths_and_names_the_command(tmp_path: Path) -> None:
    command = (
        "quickstart",
        "--run",
        tmp_path / "r",
        *tiny("sample.samples_per_question=60"),
        "--until",
        "sample",
    )
    process = start(*command, home=tmp_path / "home")
    partial = tmp_path / "r/1_sample/paths.jsonl.partial"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.05)
    written = partial.read_bytes()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To go on: lema quickstart --run" in stderr
    assert partial.read_bytes().startswith(written)


# --- completion -------------------------------------------------------------------------------------------------


def complete(words: str, home: Path) -> list[str]:
    env = environment(
        home, _LEMA_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)
    )
    done = subprocess.run(LEMA, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_stages_and_recipes_are_completed(tmp_path: Path) -> None:
    assert complete("lema st", tmp_path) == ["status", "students"]
    assert complete("lema status --w", tmp_path) == ["--watch"]
    assert complete("lema recipes c", tmp_path) == ["check", "copy"]
    assert complete("lema run quickstart --until e", tmp_path) == ["export", "evaluate"]
    assert complete("lema run qu", tmp_path) == ["quickstart", "qu"]  # and the shell's own files


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_one_that_the_shell_can_read(shell: str) -> None:
    result = CliRunner().invoke(lema, ["-q", "completion", shell])
    assert result.exit_code == 0
    assert "_LEMA_COMPLETE" in result.stdout
    if shutil.which(shell) is not None:
        read = [shell, "-n"] if shell != "fish" else ["fish", "--no-execute"]
        assert subprocess.run(read, input=result.stdout, text=True, check=False).returncode == 0
