"""A run with several training seeds, a third arm, arms matched in tokens and sampled answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import lema, tiny

from lema_local.contamination import Certificate
from lema_local.records import Scores
from lema_local.runs import hash_file

pytestmark = pytest.mark.slow


def test_seeds_arms_tokens_and_samples(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = tiny(
        "build.match=tokens", "train.seeds=[1]", "train.arms=[cot,lema,cot_unmatched]", "evaluate.samples=3",
        "questions.test=[{source: quickstart@test, limit: 12}]", "train.validate_every_steps=1",
    )  # fmt: skip
    done = lema("quickstart", "--run", run, "--paper-style", *flags, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    scores = Scores.model_validate_json((run / "8_evaluate/scores.json").read_bytes())
    rows = {"base", "cot", "lema", "cot_unmatched", "cot-seed-1", "lema-seed-1", "cot_unmatched-seed-1"}
    assert {one.arm for one in scores.arms} == rows
    assert all(one.sampled and one.sampled.samples == 3 for one in scores.arms)
    assert {(one.first, one.second) for one in scores.seeds} >= {(None, "cot"), ("cot", "lema")}
    train = json.loads((run / "6_train/manifest.json").read_text())["counts"]
    assert {one["optimizer_steps"] for one in train.values()} == {2}
    assert train["cot"]["trained_tokens"] == pytest.approx(train["lema"]["trained_tokens"], rel=0.03)
    losses = {name: (run / f"6_train/{name}/train_log.jsonl").read_text() for name in ("lema", "lema-seed-1")}
    assert losses["lema"] != losses["lema-seed-1"]
    for arm in ("cot", "lema", "cot_unmatched"):
        certificate = Certificate.model_validate_json((run / f"5_build/{arm}.contamination.json").read_text())
        assert certificate.sha256 == hash_file(run / f"5_build/{arm}.jsonl")
        assert certificate.left["exact"] == 0
    for word in ("maj@3", "lema less cot over 2 training seeds", "cot_unmatched is not matched"):
        assert word in done.stdout
    assert {(one.arm, one.checkpoints) for one in scores.paper_style} == {(arm, 2) for arm in rows - {"base"}}
    assert "the best of 2 checkpoints on these very test questions" in done.stdout
    report = (run / "9_report/report.md").read_text()
    for word in ("pass@3", "training seeds", "style", "checked against quickstart"):
        assert word in report
