"""Training and export with the real parts: bitsandbytes, TRL and llama.cpp, on tiny random models.

From a GGUF, by QLoRA, back into GGUF; every family of models stands in test_families.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_hf import Pair, make_examples, write_pair

from lema_local.errors import BackendError, InputError, LemaError, RunStateError
from lema_local.jsonl import read_records
from lema_local.stages.export import answer_greedily, check_exported, describe_fidelity
from lema_local.stages.train import describe_training, train_arm
from lema_local.students import open_student
from lema_local.training.base import FidelityResult, TrainResult, TrainSettings
from lema_local.training.checkpoints import LogLine
from lema_local.training.local import LocalTrainer, read_training_record

QUICK = TrainSettings(
    lora_rank=8, lora_alpha=16, lora_dropout=0.0, learning_rate=1e-2, batch_size=8, micro_batch_size=4, max_steps=24,
    has_gradient_checkpointing=False, max_grad_norm=1.0, save_every_steps=100, weight_decay=0.0,
)  # fmt: skip
SHORT = QUICK.model_copy(update={"max_steps": 4, "learning_rate": 1e-3})
EXAMPLES = make_examples(16)
PROMPTS = [example.prompt for example in EXAMPLES[:10]]


def _silent(step: int, steps: int, values: dict[str, float]) -> None:
    """No progress."""


def _train(base: Path, out_dir: Path, settings: TrainSettings = SHORT) -> TrainResult:
    return LocalTrainer(base).train(EXAMPLES, settings, out_dir, _silent)


def _losses(out_dir: Path) -> list[float]:
    return [line.loss for line in read_records(out_dir / "train_log.jsonl", LogLine)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@dataclass(frozen=True)
class Trained:
    pair: Pair
    result: TrainResult
    trainer: LocalTrainer
    adapter_gguf: Path


@pytest.fixture(scope="module", params=["llama", "qwen2 tied"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    family, _, tied = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(family)
    pair = write_pair(folder, family, is_tied=bool(tied))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEMA_HOME", str(folder / "home"))
        trainer = LocalTrainer(pair.gguf_path)
        student = open_student(str(pair.gguf_path))
        result = train_arm(EXAMPLES, trainer, QUICK, folder / "out", _silent, student)
        student.close()
        adapter_gguf = folder / "adapter.gguf"
        trainer.export(result.adapter_dir, adapter_gguf)
        yield Trained(pair, result, trainer, adapter_gguf)


def _compare(trained: Trained, adapter_gguf: Path | None) -> FidelityResult:
    bare = open_student(str(trained.pair.gguf_path))
    adapted = open_student(str(trained.pair.gguf_path), adapter=adapter_gguf)
    try:
        return check_exported(
            trained.trainer, trained.result.adapter_dir, PROMPTS, adapted=adapted, bare=bare, max_tokens=32
        )
    finally:
        adapted.close()
        bare.close()


def test_training_matters_and_the_export_is_the_same_student(trained: Trained) -> None:
    losses = _losses(trained.result.adapter_dir.parent)
    assert losses[-1] < 0.5 * losses[0]
    fidelity = _compare(trained, trained.adapter_gguf)
    assert fidelity.is_same_student, describe_fidelity(fidelity)
    assert fidelity.without_adapter is not None
    assert fidelity.without_adapter.mean_kl > 0.1
    assert fidelity.greedy_equal >= len(PROMPTS) - 2
    assert fidelity.without_adapter_equal <= len(PROMPTS) // 2
    assert fidelity.nf4_greedy_equal is not None
    assert fidelity.nf4_mean_kl is not None
    assert 0 < fidelity.nf4_mean_kl < 5
    assert list(fidelity.answers) == ["trained", "adapter on GGUF"]


def test_leaving_the_adapter_out_is_noticed(trained: Trained) -> None:
    fidelity = _compare(trained, None)
    assert not fidelity.is_same_student
    assert fidelity.divergence is not None
    assert not fidelity.divergence.is_within_bound


def test_packed_padded_and_micro_batches_give_the_same_losses(pair: Pair, tmp_path: Path) -> None:
    layouts: list[dict[str, Any]] = [
        {"is_packed": True},
        {"is_packed": False},
        {"is_packed": True, "micro_batch_size": 8},
        {"is_packed": False, "micro_batch_size": 3, "has_gradient_checkpointing": True},
    ]
    losses = []
    for number, layout in enumerate(layouts):
        _train(pair.folder, tmp_path / str(number), SHORT.model_copy(update=layout))
        losses.append(_losses(tmp_path / str(number)))
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=1e-4)


KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tiny_hf import make_examples
from lema_local.training.base import TrainSettings
from lema_local.training.local import LocalTrainer

def kill_at_5(step, steps, values):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

settings = TrainSettings.model_validate_json({settings!r})
LocalTrainer({base!r}).train(make_examples(16), settings, Path({out!r}), kill_at_5)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_training_goes_on_with_the_same_losses(pair: Pair, tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"max_steps": 8, "save_every_steps": 2, "lora_dropout": 0.3})
    _train(pair.folder, tmp_path / "undisturbed", settings)
    out = tmp_path / "killed"
    script = KILLED.format(
        tests=str(Path(__file__).parents[1]),
        settings=settings.model_dump_json(),
        base=str(pair.folder),
        out=str(out),
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert len(_losses(out)) == 5
    assert not (out / "adapter").exists()
    result = _train(pair.folder, out, settings)
    assert result.details["resumed_at_step"] == 4
    assert _losses(out) == pytest.approx(_losses(tmp_path / "undisturbed"), abs=1e-5)
    assert not (out / "checkpoints").exists()
    _assert_same_weights(out / "adapter", tmp_path / "undisturbed" / "adapter")


def _assert_same_weights(one: Path, other: Path) -> None:
    from safetensors.numpy import load_file

    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    for name, weight in ours.items():
        assert weight.dtype == np.float32
        assert np.allclose(weight, theirs[name], atol=1e-6), name


def test_finished_training_is_returned_at_once_and_another_one_is_refused(pair: Pair, tmp_path: Path) -> None:
    first = _train(pair.folder, tmp_path, SHORT)
    made_at = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    again = _train(pair.folder, tmp_path, SHORT.model_copy(update={"save_every_steps": 1}))
    assert (again.final_loss, again.seconds) == (first.final_loss, first.seconds)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == made_at
    with pytest.raises(RunStateError, match="holds another adapter"):
        _train(pair.folder, tmp_path, SHORT.model_copy(update={"seed": 1}))


def test_result_counts_everything_and_says_what_made_it(pair: Pair, tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"max_length": 48, "method": "lora"})
    mixed = [*make_examples(8), *make_examples(8, kind="correction")]
    result = LocalTrainer(pair.folder).train(mixed, settings, tmp_path, _silent)
    assert result.examples + len(result.left_out_ids) == 16
    assert result.left_out_ids
    assert result.trained_tokens == sum(result.trained_tokens_by_kind.values()) < result.tokens
    assert set(result.trained_tokens_by_kind) == {"cot", "correction"}
    assert result.peak_memory_gib > 0.1
    assert (
        result.details["base"]["sha256"]
        == json.loads((result.adapter_dir / "lema_base.json").read_text())["sha256"]
    )
    record = read_training_record(result.adapter_dir)
    assert record is not None
    assert record.settings == settings
    assert sorted(path.name for path in result.adapter_dir.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "lema_base.json", "lema_training.json",
    ]  # fmt: skip
    assert "left out as too long" in "\n".join(describe_training(result))


def test_nothing_is_written_when_student_and_base_cut_prompts_differently(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cut a prompt into different tokens, first at token 0"):
        LocalTrainer(pair.folder).train(EXAMPLES, SHORT, tmp_path / "out", _silent, lambda prompt: [1, 2, 3])
    assert not (tmp_path / "out").exists()


def test_loss_that_is_no_number_stops_and_names_the_examples(pair: Pair, tmp_path: Path) -> None:
    settings = SHORT.model_copy(
        update={"learning_rate": 1e30, "max_steps": 20, "save_every_steps": 1, "weight_decay": 0.0}
    )
    with pytest.raises(
        BackendError, match=r"training stopped at step \d+: loss .*Examples of this step: cot-\d+"
    ):
        _train(pair.folder, tmp_path, settings)
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "checkpoints").is_dir()


def test_training_that_failed_to_name_its_adapter_only_does_that_again(pair: Pair, tmp_path: Path) -> None:
    blocker = tmp_path / "adapter"

    def block(step: int, steps: int, values: dict[str, float]) -> None:
        if step == steps:
            blocker.write_text("a file in the way")

    with pytest.raises(LemaError, match="cannot write"):
        LocalTrainer(pair.folder).train(EXAMPLES, SHORT, tmp_path, block)
    losses = _losses(tmp_path)
    blocker.unlink()
    result = _train(pair.folder, tmp_path)
    assert result.details["resumed_at_step"] == SHORT.max_steps
    assert _losses(tmp_path) == losses
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_full_disk_is_told_before_the_first_step(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(LemaError, match=r"no room for checkpoints in .*GiB needed"):
        _train(pair.folder, tmp_path / "out")
    assert _losses(tmp_path / "out") == []


def test_student_answers_in_the_order_of_the_prompts(pair: Pair) -> None:
    student = open_student(str(pair.gguf_path))
    together = answer_greedily(student)(PROMPTS[:4], 8)
    student.close()
    assert len(together) == 4
    assert len(set(together)) > 1
