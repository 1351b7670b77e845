"""The whole loop with its real parts, small: once through, again, changed, taken over, killed, interrupted."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

import pytest
from command import lema, start, tiny
from fake_teacher import FakeTeacher

from lema_local.grades import GradeBook, correction_id
from lema_local.jsonl import read_records
from lema_local.records import Correction, Scores

MADE_BEFORE_TRAINING = (
    "0_questions/train.jsonl",
    "1_sample/paths.jsonl",
    "2_correct/corrections.jsonl",
    "4_filter/accepted.jsonl",
    "4_filter/rejected.jsonl",
    "5_build/cot.jsonl",
    "5_build/lema.jsonl",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, home: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A whole small run, and what the command printed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = lema("quickstart", "--run", run, *tiny(), home=home)
    assert done.returncode == 0, done.stderr
    return run, done


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_loop_leaves_every_stage_finished_and_prints_the_result(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, done = finished
    manifests = {path.parent.relative_to(run).as_posix() for path in run.rglob("manifest.json")}
    arms = {f"{stage}/{arm}" for stage in ("6_train", "7_export", "8_evaluate") for arm in ("cot", "lema")}
    whole = {
        "0_questions",
        "1_sample",
        "2_correct",
        "4_filter",
        "5_build",
        "6_train",
        "7_export",
        "8_evaluate",
    }
    assert manifests >= whole | arms | {"8_evaluate/base"}
    assert not list(run.rglob("*.partial"))
    for word in ("base: ", "cot: ", "lema: ", "pass@1", "report.html"):
        assert word in done.stdout
    assert "Traceback" not in done.stderr


def test_every_file_that_a_run_leaves_is_in_the_documentation(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    page = (Path(__file__).parents[2] / "docs/file-formats.md").read_text()
    first_cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    known = [re.sub("<[a-z]+>", "*", name) for cell in first_cells for name in re.findall("`([^`]+)`", cell)]
    left = [path.relative_to(finished[0]) for path in finished[0].rglob("*") if path.is_file()]
    assert len(left) > 50
    assert [str(path) for path in left if not any(fnmatch(str(path), one) for one in known)] == []


def test_a_plan_beside_a_finished_run_knows_how_long_each_stage_takes(
    finished: tuple[Path, subprocess.CompletedProcess[str]], home: Path
) -> None:
    done = lema("plan", "quickstart", "--run", finished[0].parent / "next", "--json", *tiny(), home=home)
    told = json.loads(done.stdout)
    assert all(told[name] > 0 for name in ("sample_hours", "train_hours", "answer_hours"))
    assert told["answers"] == sum(len(read_lines(path)) for path in finished[0].glob("8_evaluate/*/*.jsonl"))


def test_no_progress_bar_of_a_library_reaches_the_user(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert "it/s]" not in finished[1].stderr
    assert "Warning" not in finished[1].stderr.replace("Warning: ", "")


def test_counts_add_up_from_stage_to_stage(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run, _ = finished
    paths = read_lines(run / "1_sample/paths.jsonl")
    corrections = read_lines(run / "2_correct/corrections.jsonl")
    accepted = read_lines(run / "4_filter/accepted.jsonl")
    rejected = read_lines(run / "4_filter/rejected.jsonl")
    assert sum(int(str(path["count"])) for path in paths) == 32 * 2
    wrong = {path["question_id"] for path in paths if path["verdict"] == "wrong"}
    assert wrong
    assert {one["question_id"] for one in corrections} == wrong
    assert len(accepted) + len(rejected) == len(corrections)
    arms = {arm: read_lines(run / f"5_build/{arm}.jsonl") for arm in ("cot", "lema")}
    assert len(arms["cot"]) == len(arms["lema"]) == 32 + len(accepted)
    assert {one["kind"] for one in arms["lema"]} == {"cot", "correction"}


def test_arms_get_equal_optimizer_steps_and_their_fidelity_is_measured(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = finished
    train = json.loads((run / "6_train/manifest.json").read_text())["counts"]
    assert train["cot"]["optimizer_steps"] == train["lema"]["optimizer_steps"] == 2
    export = json.loads((run / "7_export/manifest.json").read_text())["counts"]
    for arm in ("cot", "lema"):
        assert export[arm]["fidelity"]["prompts"] == 4
        fidelity = export[arm]["fidelity"]
        assert fidelity["greedy_equal"] + fidelity["near_ties"] == 4
        assert fidelity["divergence"]["mean_kl"] < min(1e-3, fidelity["without_adapter"]["mean_kl"])
        forms = ["trained", "adapter on GGUF", "merged f16", "merged q4_0"]
        assert list(export[arm]["right"]) == list(fidelity["answers"]) == forms
        assert all(0 <= count <= 4 for count in export[arm]["right"].values())


def test_exported_students_come_with_what_others_need_to_run_them(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = finished
    for arm in ("cot", "lema"):
        names = {path.name for path in (run / "7_export" / arm).iterdir()}
        assert names >= {"adapter.gguf", "Modelfile", "llama-server.sh", "chat_template.jinja"}
        assert names >= {"merged-f16.gguf", "merged-q4_0.gguf", "merged-q4_0.Modelfile"}
        card = (run / "6_train" / arm / "adapter" / "README.md").read_text()
        assert f"| **{arm}** | quickstart | cot-zero-shot |" in card
        assert "Teacher reference" in card
        assert f"{arm}.jsonl: of 32 questions none shares its text with a test question" in card
        assert "## Recipe" in card
    report = (run / "9_report/report.md").read_text()
    assert "logits of llama.cpp against torch: mean KL" in report
    assert "| merged q4\\_0 |" in report
    assert "the answers side by side" in (run / "9_report/report.html").read_text()


def test_scores_are_those_of_the_predictions(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run, _ = finished
    scores = Scores.model_validate_json((run / "8_evaluate/scores.json").read_bytes())
    for score in scores.arms:
        predictions = read_lines(run / f"8_evaluate/{score.arm}/quickstart.jsonl")
        assert score.share.n == len(predictions) == 40
        assert score.share.correct == sum(one["is_correct"] is True for one in predictions)
    assert {(one.first, one.second) for one in scores.comparisons} == {
        ("base", "cot"), ("base", "lema"), ("cot", "lema"),
    }  # fmt: skip


def test_the_same_command_again_does_nothing_anew(
    finished: tuple[Path, subprocess.CompletedProcess[str]], home: Path
) -> None:
    run, before = finished
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*.jsonl")}
    done = lema("quickstart", "--run", run, *tiny(), home=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout == before.stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.jsonl")} == times
    assert "sample: finished before" in done.stderr


def test_settings_that_change_no_result_are_no_reason_to_refuse(
    finished: tuple[Path, subprocess.CompletedProcess[str]], home: Path
) -> None:
    done = lema(
        "quickstart", "--run", finished[0], *tiny("student.threads=1", "correct.concurrency=3"), home=home
    )
    assert done.returncode == 0, done.stderr


def test_another_setting_is_refused_by_name_with_the_ways_on(
    finished: tuple[Path, subprocess.CompletedProcess[str]], home: Path
) -> None:
    run, _ = finished
    done = lema("quickstart", "--run", run, *tiny("sample.temperature=0.5"), home=home)
    assert done.returncode == 2
    assert "sample.temperature: was 0.8, is 0.5" in done.stderr
    assert "--reuse" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_run_takes_over_what_fits_and_makes_the_rest(
    finished: tuple[Path, subprocess.CompletedProcess[str]], home: Path, tmp_path: Path
) -> None:
    run, _ = finished
    flags = (*tiny("filter.drop_duplicates=true"), "--until", "build", "--reuse", run)
    done = lema("quickstart", "--run", tmp_path / "new", *flags, home=home)
    assert done.returncode == 0, done.stderr
    assert "correct: taken over" in done.stderr
    assert "filter: done" in done.stderr
    assert (tmp_path / "new/1_sample/paths.jsonl").read_bytes() == (run / "1_sample/paths.jsonl").read_bytes()


def test_kill_9_at_random_moments_ends_with_the_same_files(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run, new_home = tmp_path / "killed", tmp_path / "home"
    command = ("quickstart", "--run", run, *tiny(), "--until", "build")
    chance = random.Random(5)
    for _ in range(5):
        process = start(*command, home=new_home)
        time.sleep(chance.uniform(0.3, 1.8))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = lema(*command, home=new_home)
    assert done.returncode == 0, done.stderr
    for name in MADE_BEFORE_TRAINING:
        assert (run / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_ctrl_c_is_said_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = (
        "quickstart",
        "--run",
        tmp_path / "run",
        *tiny("sample.samples_per_question=60"),
        "--until",
        "sample",
    )
    process = start(*command, home=tmp_path / "home")
    partial = tmp_path / "run/1_sample/paths.jsonl.partial"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To go on: lema quickstart" in stderr
    assert "Traceback" not in stderr


def test_what_a_reviewer_graded_poor_is_not_trained_on(
    finished: tuple[Path, subprocess.CompletedProcess[str]], home: Path, tmp_path: Path
) -> None:
    """As the help of lema review has it: another run takes over what fits and filters by the grades."""
    accepted = read_records(finished[0] / "4_filter/accepted.jsonl", Correction)
    book, run = GradeBook(tmp_path / "grades.sqlite"), tmp_path / "without-poor"
    book.mark("ada", accepted[0], "poor")
    book.mark("ada", accepted[1], "good")
    graded = ("filter.drop_graded=[poor]", f"filter.grades={book.path}")
    command = ("quickstart", "--run", run, "--reuse", finished[0], "--until", "build", *tiny(*graded))
    done = lema(*command, home=home)
    assert done.returncode == 0, done.stderr
    assert "correct: taken over" in done.stderr
    kept = read_records(run / "4_filter/accepted.jsonl", Correction)
    assert kept == [one for one in accepted if one != accepted[0]]
    (dropped,) = (
        one
        for one in read_records(run / "4_filter/rejected.jsonl", Correction)
        if one.reason == "a reviewer graded it poor"
    )
    assert correction_id(dropped) == correction_id(accepted[0])
    for arm in ("cot", "lema"):
        assert len(read_lines(run / f"5_build/{arm}.jsonl")) == 32 + len(kept)
    book.mark("ada", accepted[1], "poor")  # another grade: another filter, which this folder is told
    refused = lema(*command, home=home)
    assert refused.returncode == 2
    assert "drop_graded" in refused.stderr


def test_two_processes_in_one_run_folder_the_second_is_refused(tmp_path: Path) -> None:
    command = (
        "quickstart",
        "--run",
        tmp_path / "run",
        *tiny("sample.samples_per_question=60"),
        "--until",
        "sample",
    )
    first = start(*command, home=tmp_path / "home")
    until = time.monotonic() + 120
    while time.monotonic() < until and not (tmp_path / "run/1_sample/started.json").exists():
        time.sleep(0.05)
    second = lema(*command, home=tmp_path / "home")
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another process is at work" in second.stderr


def test_a_teacher_by_url_corrects_the_same_mistakes_within_its_budget(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    price = (
        "teacher.price_in=1000.0",
        "teacher.price_out=1000.0",
        "correct.concurrency=2",
        "correct.max_tokens=200",
    )
    with FakeTeacher() as server:
        flags = [*tiny(*price), "--until", "filter", "--reuse", finished[0], "--run", tmp_path / "run"]
        flags += ["--teacher", "openai/tutor", "--teacher-url", server.url]
        stopped = lema("quickstart", *flags, "--max-usd", "6", home=tmp_path / "home")
        asked = server.requests
        assert stopped.returncode == 3, stopped.stderr
        assert "--max-usd 12" in stopped.stderr
        assert asked > 0
        done = lema("quickstart", *flags, "--max-usd", "600", home=tmp_path / "home")
        assert done.returncode == 0, done.stderr
        assert max(server.asked.values()) == 1, "a request was paid twice"
    assert "sample: finished before" in done.stderr
    corrections = read_lines(tmp_path / "run/2_correct/corrections.jsonl")
    before = read_lines(finished[0] / "2_correct/corrections.jsonl")
    key = ("question_id", "sample_index")
    assert [[one[name] for name in key] for one in corrections] == [
        [one[name] for name in key] for one in before
    ]
    assert all(one["verdict"] in {"accepted", "rejected"} and one["reply_key"] for one in corrections)


def test_arms_of_a_built_run_train_on_their_own_and_the_run_goes_on_from_there(
    finished: tuple[Path, subprocess.CompletedProcess[str]], home: Path, tmp_path: Path
) -> None:
    """As several processes would do it; the held-out questions are answered through the exported adapter."""
    run = tmp_path / "run"
    command = (
        "quickstart",
        "--run",
        run,
        *tiny("train.validate_every_steps=1", "train.validate_answers_every=1"),
    )
    built = lema(*command, "--reuse", finished[0], "--until", "build", home=home)
    assert built.returncode == 0, built.stderr
    planned = lema("train", run, "--dry-run", home=home)
    assert "2,558,208 parameters" in planned.stdout
    refused = lema("train", run, "--epochs", "2", home=home)
    assert refused.returncode == 2
    assert "is trained as its recipe says, so epochs cannot be given here" in refused.stderr
    trained = lema("train", run, home=home)
    assert trained.returncode == 0, trained.stderr
    assert "step 1: held-out loss " in trained.stderr
    assert "of the held-out questions right" in trained.stdout
    looks = {arm: read_lines(run / "6_train" / arm / "validation_log.jsonl") for arm in ("cot", "lema")}
    for lines in looks.values():
        assert [line["step"] for line in lines] == [1, 2]
        assert all(line["pass_at_1"] in [right / 8 for right in range(9)] for line in lines)
    made_at = (run / "6_train/lema/adapter/adapter_model.safetensors").stat().st_mtime_ns
    went_on = lema(*command, "--until", "train", home=home)
    assert went_on.returncode == 0, went_on.stderr
    assert (run / "6_train/lema/adapter/adapter_model.safetensors").stat().st_mtime_ns == made_at
    best = json.loads((run / "6_train/lema/manifest.json").read_text())["counts"]["details"]["best"]
    assert best == max(looks["lema"], key=lambda line: (line["pass_at_1"], -float(str(line["loss"]))))


def test_mistakes_of_several_students_go_into_one_run(tmp_path: Path, home: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(files("lema_local.quickstart").joinpath("student.gguf").read_bytes())
    run = tmp_path / "run"
    both = tiny(
        "sample.temperature=1.2",
        f"other_students=[{{model: {other}}}]",
        "sample.stop_after_mistakes=24",
        "correct.max_per_question=null",
    )
    done = lema("quickstart", "--run", run, *both, "--until", "build", home=home)
    assert done.returncode == 0, done.stderr
    paths = read_lines(run / "1_sample" / "paths.jsonl")
    mistakes = [(one["student"], one["question_id"]) for one in paths if one["verdict"] == "wrong"]
    assert {student for student, _ in mistakes} == {"student.gguf", "other.gguf"}
    assert len(mistakes) >= 24
    corrected = {one["student"] for one in read_lines(run / "2_correct" / "corrections.jsonl")}
    assert corrected == {"student.gguf", "other.gguf"}
    ids = [one["id"] for one in read_lines(run / "5_build" / "lema.jsonl")]
    assert len(ids) == len(set(ids))
    assert any("other.gguf" in str(one) for one in ids)
