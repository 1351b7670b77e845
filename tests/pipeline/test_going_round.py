"""Rounds with their real parts, small: a further one added to a finished run, killed, resumed, refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import lema, start, tiny

from lema_local.rounds import read_rounds

MADE_BEFORE_TRAINING = (
    "0_evolve/questions.jsonl", "0_questions/train.jsonl", "1_sample/paths.jsonl",
    "2_correct/corrections.jsonl", "4_filter/accepted.jsonl",
    "5_build/cot.jsonl", "5_build/lema.jsonl",
)  # fmt: skip
SMALL = tiny(
    "questions.train={source: quickstart@train, limit: 16}",
    "questions.test=[{source: quickstart@test, limit: 8}]",
    "train.validate_every_steps=null",
    "export.merge=[]",
    "export.fidelity_prompts=1",
    "evolve.questions=12",
    "rounds.needs_rise=false",
    "rounds.min_new_mistakes=1",
    "rounds.start_from=adapter",
)


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A finished run of one round."""
    run = tmp_path_factory.mktemp("runs") / "first"
    done = lema("quickstart", "--run", run, *SMALL, home=home)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def both(first: Path, home: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The same run with a second round, and what the command printed."""
    run = first.with_name("both")
    shutil.copytree(first, run)
    done = lema("quickstart", "--run", run, *SMALL, "--rounds", "2", home=home)
    assert done.returncode == 0, done.stderr
    return run, done


def test_a_round_is_added_to_a_finished_run_and_nothing_of_the_first_is_done_again(
    both: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, done = both
    assert "\ntrain cot: finished before" in done.stderr
    assert "\nround 2: sample: done" in done.stderr
    assert "round 2: evaluate base: taken over" in done.stderr
    assert "of round 2 answers" in done.stdout
    assert "round 2 was the last one asked for" in done.stdout
    one, two = read_rounds(run)
    assert (one.sampled_from, one.stopped) == ("base", None)
    assert two.sampled_from == f"{one.student} of round 1"
    assert two.stopped == "all_done"
    assert set(two.validation) == {"base", "cot", "lema"}
    assert two.validation["base"] == one.validation["base"]


def test_only_new_mistakes_are_corrected_and_the_earlier_corrections_are_trained_on_too(
    both: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = both
    arm = read_rounds(run)[0].student
    corrected = [read_lines(run / one / "2_correct/corrections.jsonl") for one in ("", "round_2")]
    assert corrected[1]
    assert {one["student"] for one in corrected[1]} == {f"student.gguf+{arm}-round-1"}
    steps = [{(one["question_id"], str(one["original_steps"])) for one in some} for some in corrected]
    assert not steps[0] & steps[1]
    examples = read_lines(run / "round_2/5_build/lema.jsonl")
    assert sum(one["kind"] == "correction" for one in examples) == sum(map(len, corrected))
    assert len({one["id"] for one in examples}) == len(examples)


def test_new_questions_are_made_after_corrected_ones_and_sampled_too(
    both: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = both
    assert not (run / "0_evolve").exists()
    evolved = read_lines(run / "round_2/0_evolve/evolved.jsonl")
    assert len(evolved) == 12
    corrected = {one["question_id"] for one in read_lines(run / "4_filter/accepted.jsonl")}
    assert {one["seed_id"] for one in evolved} <= corrected
    new = {str(one["id"]) for one in read_lines(run / "round_2/0_evolve/questions.jsonl")}
    assert len(new) == read_rounds(run)[1].evolved_questions > 0
    train = {one["id"] for one in read_lines(run / "round_2/0_questions/train.jsonl")}
    assert train == new | {one["id"] for one in read_lines(run / "0_questions/train.jsonl")}
    assert new <= {one["question_id"] for one in read_lines(run / "round_2/1_sample/paths.jsonl")}


def test_an_arm_goes_on_from_its_own_adapter(both: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run, _ = both
    made = json.loads((run / "round_2/6_train/cot/manifest.json").read_text())["made_from"]
    assert made["start"] == json.loads((run / "6_train/cot/manifest.json").read_text())["fingerprint"]
    losses = [read_lines(run / one / "6_train/cot/train_log.jsonl")[0]["loss"] for one in ("", "round_2")]
    assert losses[0] != losses[1]


def test_status_and_report_show_both_rounds(
    both: tuple[Path, subprocess.CompletedProcess[str]], home: Path
) -> None:
    run, _ = both
    status = lema("status", run, home=home)
    assert "\nround 2\n" in status.stdout
    assert "round 2 was the last one asked for" in status.stdout
    assert f"Next: lema report {run}" in status.stdout
    alone = lema("status", run / "round_2", home=home)
    assert alone.returncode == 0
    assert (run / "round_2/9_report/report.html").is_file()


@pytest.mark.slow
def test_kill_9_in_the_second_round_and_the_same_command_ends_with_the_same_records(
    first: Path, both: tuple[Path, subprocess.CompletedProcess[str]], home: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    shutil.copytree(first, run)
    command = ("quickstart", "--run", run, *SMALL, "--rounds", "2")
    process = start(*command, home=home)
    until = time.monotonic() + 200
    while time.monotonic() < until and not (run / "round_2/1_sample/paths.jsonl.partial").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "round_2/2_correct").exists()
    shown = lema("status", run, home=home).stdout
    assert f"Next: lema run {run}/recipe.yaml --run {run}" in shown
    done = lema(*command, home=home)
    assert done.returncode == 0, done.stderr
    assert "round 2: sample: going on" in done.stderr
    for name in MADE_BEFORE_TRAINING:
        ours, theirs = (one / "round_2" / name for one in (run, both[0]))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert read_rounds(run) == read_rounds(both[0])


def test_new_mistakes_that_run_out_end_the_run_before_the_teacher_is_asked(
    first: Path, home: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(first, run)
    few = ("--set", "rounds.min_new_mistakes=1000", "--rounds", "3")
    done = lema("quickstart", "--run", run, *SMALL, *few, home=home)
    assert done.returncode == 0, done.stderr
    assert "round 2 ends the run: new mistakes have run out" in done.stdout
    assert not (run / "round_2/2_correct").exists()
    assert [one.stopped for one in read_rounds(run)] == [None, "no_new_mistakes"]


def test_a_base_that_changed_is_told(first: Path, home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(first, run)
    facts = run / "6_train/cot/adapter/lema_base.json", run / "6_train/lema/adapter/lema_base.json"
    for path in facts:
        path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "0" * 64}))
    done = lema("quickstart", "--run", run, *SMALL, "--rounds", "2", home=home)
    assert done.returncode == 2
    assert "the base has changed" in done.stderr
    assert "Traceback" not in done.stderr
