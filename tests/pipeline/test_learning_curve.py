"""A small learning curve with the real parts: killed, gone on with, taken over from its run, refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import lema, start, tiny

from lema_local.cli import lema as cli
from lema_local.curve.findings import Curve


def _read_ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_a_curve_is_trained_killed_gone_on_with_and_refused(tmp_path: Path) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    few = tiny(
        "questions.test=[{source: quickstart@test, limit: 12}]", "train.validate_every_steps=null",
        "train.arms=[lema]", "export.fidelity_prompts=1", "export.fidelity_max_tokens=8", "export.merge=[]",
    )  # fmt: skip
    made = lema("quickstart", "--run", run, *few, home=home)
    assert made.returncode == 0, made.stderr
    accepted = json.loads((run / "4_filter/manifest.json").read_text())["counts"]["accepted"]
    command = ("curve", run, "--sizes")

    first = run / "curve/size-00004/seed-0"
    process = start(*command, "4,all", home=home)
    until = time.monotonic() + 240
    while time.monotonic() < until and not (first / "6_train/lema/manifest.json").exists():
        time.sleep(0.05)
    process.kill()
    process.communicate()
    adapter = first / "6_train/lema/adapter/adapter_model.safetensors"
    trained_at = adapter.stat().st_mtime_ns
    done = lema(*command, "all,4,4", home=home)
    assert done.returncode == 0, done.stderr
    assert adapter.stat().st_mtime_ns == trained_at
    assert "sample: done" not in done.stderr
    for words in ("evaluate base: taken over", "train lema: taken over", "evaluate: taken over"):
        assert words in done.stderr
    curve = Curve.model_validate_json((run / "curve/curve.json").read_bytes())
    assert [(one.size, one.corrections, one.share.n) for one in curve.trainings] == [
        (4, 4, 12),
        (accepted, accepted, 12),
    ]
    assert curve.missing == 0
    assert curve.base["quickstart"].n == 12
    assert [one.arm for one in curve.trends] == ["lema"]
    assert curve.trends[0].sentence in done.stdout
    examples = [
        set(_read_ids(run / f"curve/size-{size}/seed-0/5_build/lema.jsonl"))
        for size in ("00004", f"{accepted:05d}")
    ]
    assert examples[0] < examples[1]
    page = (run / "curve/curve.md").read_text()
    for words in ("curve.svg", "| 4 | lema | 0 | 36 | 2 |", "What this does not say"):
        assert words in page
    assert (run / "curve/curve.svg").is_file()

    # Nothing is trained any more: in this process, which saves two starts.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEMA_HOME", str(home))
        words = list(map(str, command))
        again = CliRunner().invoke(cli, [*words, "4,all", "--json"])
        refused = CliRunner().invoke(cli, [*words, "4", "--set", "train.learning_rate=0.5"])
    assert json.loads(again.stdout) == json.loads((run / "curve/curve.json").read_text())
    assert "done in" not in again.stderr
    assert refused.exit_code == 2
    assert "train.learning_rate: was 0.001, is 0.5" in refused.stderr
    assert "--out" in refused.stderr
