"""`lema status` on real runs, in processes of their own."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import time
from pathlib import Path

from command import LEMA, environment, start, tiny
from command import lema as lema_process
from fake_run import FakeRun


def stages_of(run: Path, home: Path) -> dict[str, dict[str, object]]:
    done = lema_process("status", run, "--json", home=home)
    assert done.returncode == 0, done.stderr
    return {one["stage"]: one for one in json.loads(done.stdout)["stages"]}


def test_a_killed_run_is_seen_running_then_stopped_and_goes_on_with_the_command_it_names(
    tmp_path: Path,
) -> None:
    run, home = tmp_path / "run", tmp_path / "home"
    flags = (*tiny("sample.samples_per_question=30"), "--until", "sample")
    process = start("quickstart", "--run", run, *flags, home=home)
    until = time.monotonic() + 120
    while time.monotonic() < until and not (run / "progress.json").exists():
        time.sleep(0.05)
    watched = subprocess.Popen(
        [*LEMA, "status", str(run), "--watch", "--json"],
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watched.stdout is not None
    first = json.loads(watched.stdout.readline())
    assert first["is_running"] is True
    assert first["next_command"] == f"lema status {run} --watch"
    assert stages_of(run, home)["sample"]["state"] == "running"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rest, _ = watched.communicate(timeout=60)  # nothing is at work any more: it ends by itself
    assert watched.returncode == 0
    last = json.loads(rest.splitlines()[-1]) if rest else first
    assert last["is_running"] is False
    shown = lema_process("status", run, home=home).stdout
    assert "stopped" in shown
    command = next(line for line in shown.splitlines() if line.startswith("Next: ")).removeprefix("Next: ")
    again = lema_process(*shlex.split(command)[1:], "--until", "sample", home=home)
    assert again.returncode == 0, again.stderr
    assert "sample: going on" in again.stderr
    after = stages_of(run, home)
    assert (after["sample"]["state"], after["correct"]["state"]) == ("done", "waiting")


def test_ten_thousand_questions_take_it_half_a_second_of_processor_time(tmp_path: Path) -> None:
    run = tmp_path / "large"
    FakeRun(train=10_000, test=200, samples=1).write(run)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = lema_process("status", run, home=tmp_path / "home")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "sample" in done.stdout
    # Processor time: the wall clock of a busy machine says nothing.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_a_read_only_run_can_be_looked_at(tmp_path: Path) -> None:
    run = tmp_path / "run"
    FakeRun(train=3, test=3).write(run)
    before = sorted(run.rglob("*"))
    (run / ".lock").touch(0o444)
    run.chmod(0o555)
    try:
        done = lema_process("status", run, home=tmp_path / "home")
    finally:
        run.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert sorted(run.rglob("*")) == sorted([*before, run / ".lock"])
    assert os.access(run, os.R_OK)


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    done = lema_process("status", tmp_path, home=tmp_path / "home")
    assert done.returncode == 2
    assert "holds no run" in done.stderr
    assert "Traceback" not in done.stderr
