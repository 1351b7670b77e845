"""A run from corrections that were made elsewhere: nothing is sampled, nobody is asked, the rest is the same."""

from __future__ import annotations

import json
from pathlib import Path

from command import lema, tiny


def test_a_shared_folder_goes_into_a_run_and_builds_the_same_training_files(tmp_path: Path) -> None:
    home, run, new = tmp_path / "home", tmp_path / "run", tmp_path / "new"
    made = lema("quickstart", "--run", run, *tiny(), "--until", "build", home=home)
    assert made.returncode == 0, made.stderr
    shared, taken = tmp_path / "shared", tmp_path / "taken"
    assert lema("dataset", "export", run, "--out", shared, home=home).returncode == 0
    assert lema("dataset", "import", shared, "--out", taken, home=home).returncode == 0
    words = tiny(f"correct.source={taken}/corrections.jsonl", f"questions.train={taken}/questions.jsonl")
    command = ("quickstart", "--run", new, *words, "--until", "build")
    done = lema(*command, home=home)
    assert done.returncode == 0, done.stderr
    assert not (new / "1_sample").exists()
    for name in ("4_filter/accepted", "5_build/cot", "5_build/lema"):
        assert (new / f"{name}.jsonl").read_bytes() == (run / f"{name}.jsonl").read_bytes()
    counts = json.loads((new / "2_correct/manifest.json").read_text())["counts"]
    assert counts["taken"] == counts["accepted"] > 0
    status = json.loads(lema("status", new, "--json", home=home).stdout)
    assert [one["stage"] for one in status["stages"]][:3] == ["questions", "correct", "filter"]
    assert {one["state"] for one in status["stages"][:4]} == {"done"}
    again = lema(*command, home=home)
    assert "correct: finished before" in again.stderr
    # Other questions than those that came with them: told, not built from nothing.
    other = lema(
        "quickstart", "--run", tmp_path / "other", *tiny(f"correct.source={taken}/corrections.jsonl"),
        "--set", "questions.train={source: quickstart@train, limit: 8, seed: 5}", "--until", "build", home=home,
    )  # fmt: skip
    assert other.returncode == 2
    assert "is of a training question" in other.stderr
    assert "Traceback" not in other.stderr
    plan = lema("plan", new / "recipe.yaml", "--run", tmp_path / "planned", home=home)
    assert "no teacher is asked" in plan.stdout
