"""A run whose arms are formats: built, trained (pairs by DPO), exported, evaluated and reported."""

from __future__ import annotations

import json
from pathlib import Path

from command import lema, tiny

from lema_local.contamination import Certificate
from lema_local.records import Scores
from lema_local.runs import hash_file

ARMS = ("critique", "preference")


def test_arms_of_several_formats_in_one_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = tiny("train.arms=[critique,preference]", "questions.test=[{source: quickstart@test, limit: 12}]")
    done = lema("quickstart", "--run", run, *flags, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    files = {arm: (run / f"5_build/{arm}.jsonl").read_text().splitlines() for arm in ("cot", "lema", *ARMS)}
    pairs = len(files["preference"])
    assert len(files["cot"]) == len(files["lema"]) == 32 + pairs
    assert len(files["cot"]) < len(files["critique"]) <= len(files["cot"]) + pairs
    for arm in ARMS:
        certificate = Certificate.model_validate_json((run / f"5_build/{arm}.contamination.json").read_text())
        assert certificate.sha256 == hash_file(run / f"5_build/{arm}.jsonl")
    trained = json.loads((run / "6_train/manifest.json").read_text())["counts"]
    assert {one["optimizer_steps"] for one in trained.values()} == {2}
    record = json.loads((run / "6_train/preference/adapter/lema_training.json").read_text())
    assert record["settings"]["method"] == "dpo"
    assert all((run / f"7_export/{arm}/adapter.gguf").is_file() for arm in ARMS)
    scores = Scores.model_validate_json((run / "8_evaluate/scores.json").read_bytes())
    assert {one.arm for one in scores.arms} == {"base", *ARMS}
    assert [one.tests for one in scores.comparisons if one.group is None] == [2, 2, 1]
    assert "preference is not matched: it has pairs alone" in done.stdout
    report = (run / "9_report/report.md").read_text()
    assert "critique" in report
    assert "preference is not matched" in report
