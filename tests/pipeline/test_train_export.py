"""Training and export with the real parts: bitsandbytes, TRL and llama.cpp, on tiny random models.

From a GGUF, by QLoRA, back into GGUF; every family of models stands in test_families.py.
"""

from __future__ import annotations

import importlib.util
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

from lema_local.errors import BackendError, BackendUnavailable, InputError, LemaError, RunStateError
from lema_local.jsonl import read_records, write_records
from lema_local.stages.export import answer_greedily, check_exported, describe_fidelity
from lema_local.stages.train import describe_training, train_arm
from lema_local.students import open_student
from lema_local.training.base import FidelityResult, TrainResult, TrainSettings, Validation
from lema_local.training.checkpoints import LogLine
from lema_local.training.export import export_adapter
from lema_local.training.libraries import quiet_libraries
from lema_local.training.local import LocalTrainer, read_training_record
from lema_local.training.validation import VALIDATION_LOG_NAME, ValidationLine

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


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_packed_padded_and_micro_batches_give_the_same_losses(family: Any, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, family)
    layouts: list[dict[str, Any]] = [
        {"is_packed": True},
        {"is_packed": False},
        {"is_packed": True, "micro_batch_size": 8},
        {"is_packed": False, "micro_batch_size": 1},
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
from lema_local.training.base import TrainSettings, Validation
from lema_local.training.local import LocalTrainer

def kill_at_5(step, steps, values):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

settings = TrainSettings.model_validate_json({settings!r})
validation = Validation(make_examples(4))
LocalTrainer({base!r}).train(make_examples(16), settings, Path({out!r}), kill_at_5, validation=validation)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_training_goes_on_with_the_same_losses(pair: Pair, tmp_path: Path) -> None:
    settings = SHORT.model_copy(
        update={"max_steps": 8, "save_every_steps": 2, "validate_every_steps": 3, "lora_dropout": 0.3}
    )

    def train(out_dir: Path) -> TrainResult:
        validation = Validation(make_examples(4))
        return LocalTrainer(pair.folder).train(EXAMPLES, settings, out_dir, _silent, validation=validation)

    undisturbed = train(tmp_path / "undisturbed")
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
    result = train(out)
    assert result.details["resumed_at_step"] == 4
    assert _losses(out) == pytest.approx(_losses(tmp_path / "undisturbed"), abs=1e-5)
    looks = [
        [(line.step, line.loss) for line in read_records(folder / VALIDATION_LOG_NAME, ValidationLine)]
        for folder in (out, tmp_path / "undisturbed")
    ]
    assert [step for step, _ in looks[0]] == [3, 6, 8]
    assert looks[0] == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in looks[1]]
    assert result.details["best"]["step"] == undisturbed.details["best"]["step"]
    assert not (out / "checkpoints").exists()
    _assert_same_weights(out / "adapter", tmp_path / "undisturbed" / "adapter")


def _assert_same_weights(one: Path, other: Path, atol: float = 1e-6) -> None:
    from safetensors.numpy import load_file

    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    for name, weight in ours.items():
        assert weight.dtype == np.float32
        assert np.allclose(weight, theirs[name], atol=atol), name


CONNECTIONS_REFUSED = """
import socket, sys

def refuse(*arguments, **options):
    print("connects to", arguments, file=sys.stderr)
    raise OSError("no network here")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def test_training_from_files_touches_no_network(pair: Pair, tmp_path: Path) -> None:
    script = CONNECTIONS_REFUSED + KILLED.format(
        tests=str(Path(__file__).parents[1]), settings=SHORT.model_dump_json(), base=str(pair.gguf_path),
        out=str(tmp_path / "out"),
    )  # fmt: skip
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, env=online)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")


def test_finished_training_is_returned_at_once_and_another_one_is_refused(pair: Pair, tmp_path: Path) -> None:
    first = _train(pair.folder, tmp_path, SHORT)
    made_at = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    again = _train(pair.folder, tmp_path, SHORT.model_copy(update={"save_every_steps": 1}))
    assert (again.final_loss, again.seconds) == (first.final_loss, first.seconds)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == made_at
    with pytest.raises(RunStateError, match="outcome of another training"):
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


def test_what_one_arm_s_training_took_is_given_back_before_the_next(pair: Pair, tmp_path: Path) -> None:
    """Trainers refer to themselves in circles: on a card the second arm would find no room."""
    import gc

    from transformers import PreTrainedModel

    gc.collect()
    before = sum(issubclass(type(one), PreTrainedModel) for one in gc.get_objects())
    gc.disable()
    try:
        _train(pair.folder, tmp_path, SHORT)
        assert sum(issubclass(type(one), PreTrainedModel) for one in gc.get_objects()) == before
    finally:
        gc.enable()


HELD_OUT = [
    example.model_copy(
        update={"id": f"held-{example.id}", "completion": example.completion.replace("add", "sum")}
    )
    for example in make_examples(6)
]


def _train_with_held_out(base: Path, out_dir: Path, settings: TrainSettings, **more: Any) -> TrainResult:
    return LocalTrainer(base).train(
        EXAMPLES, settings, out_dir, _silent, validation=Validation(HELD_OUT, **more)
    )


def test_best_adapter_by_held_out_loss_is_kept_and_looking_changes_no_step(
    pair: Pair, tmp_path: Path
) -> None:
    # Learned by heart, the training's own words make the held-out ones less likely: the last look is not the best.
    settings = QUICK.model_copy(update={"max_steps": 20, "validate_every_steps": 4, "lora_dropout": 0.1})
    told: list[str] = []
    result = LocalTrainer(pair.folder).train(
        EXAMPLES, settings, tmp_path / "looked", _silent, validation=Validation(HELD_OUT), tell=told.append
    )
    lines = read_records(tmp_path / "looked" / VALIDATION_LOG_NAME, ValidationLine)
    assert [line.step for line in lines] == [4, 8, 12, 16, 20]
    best = min(lines, key=lambda line: line.loss)
    assert result.details["best"]["step"] == best.step < 20
    assert f"kept: the adapter of step {best.step}" in "\n".join(describe_training(result))
    assert [line for line in told if line.startswith("step ")] == [
        f"step {line.step}: held-out loss {line.loss:.4f}" for line in lines
    ]
    assert _loss_in_torch(pair, result.adapter_dir, HELD_OUT) == pytest.approx(best.loss, abs=1e-4)
    assert not (tmp_path / "looked" / "best").exists()
    blind = settings.model_copy(update={"validate_every_steps": None})
    assert "best" not in "\n".join(
        describe_training(_train_with_held_out(pair.folder, tmp_path / "blind", blind))
    )
    assert _losses(tmp_path / "looked") == _losses(tmp_path / "blind")


def _loss_in_torch(pair: Pair, adapter_dir: Path, examples: list[Any]) -> float:
    """The loss one example at a time, apart from the package's own way."""
    import torch

    from lema_local.training.models import Compute, load_adapter, load_nf4
    from lema_local.training.tokens import Encoder, encode_examples

    total, count = 0.0, 0
    with quiet_libraries(), torch.no_grad():
        model = load_adapter(load_nf4(pair.folder, Compute("cpu", "float32")), adapter_dir)
        for one in encode_examples(Encoder(LocalTrainer(pair.folder).base), examples, 1024)[0]:
            logits = model(input_ids=torch.tensor([one.input_ids])).logits[0, one.prompt_length - 1 : -1]
            labels = torch.tensor(one.input_ids[one.prompt_length :])
            total += float(torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))
            count += len(labels)
    return total / count


def test_answers_choose_the_adapter_where_they_are_asked_for_at_every_look(
    pair: Pair, tmp_path: Path
) -> None:
    rights = iter([0.2, 0.6, 0.4])
    seen: list[list[str]] = []

    def answer(adapter_dir: Path) -> float:
        seen.append(sorted(path.name for path in adapter_dir.iterdir()))
        return next(rights)

    settings = SHORT.model_copy(
        update={"max_steps": 6, "validate_every_steps": 2, "validate_answers_every": 1}
    )
    result = _train_with_held_out(pair.folder, tmp_path, settings, answer=answer)
    assert (result.details["best"]["step"], result.details["best"]["pass_at_1"]) == (4, 0.6)
    assert seen == [["README.md", "adapter_config.json", "adapter_model.safetensors"]] * 3
    assert "60.0% of the held-out questions right" in "\n".join(describe_training(result))


def test_table_tells_what_is_trained_and_what_was_left_out_before_the_first_step(
    pair: Pair, tmp_path: Path
) -> None:
    told: list[str] = []
    settings = SHORT.model_copy(update={"max_length": 48, "max_steps": 1})
    mixed = [*make_examples(8), *make_examples(8, kind="correction")]

    def stop(step: int, steps: int, values: dict[str, float]) -> None:
        told.append("first step")

    result = LocalTrainer(pair.folder).train(mixed, settings, tmp_path, stop, tell=told.append)
    text = "\n".join(told)
    assert told.index("first step") == len(told) - 1
    for kind, trained in result.trained_tokens_by_kind.items():
        row = next(line for line in told if line.startswith(kind)).split()
        assert row[3] == f"{trained:,}"
    assert f"left out as longer than 48 tokens, none cut: {len(result.left_out_ids)}: " in text
    assert result.left_out_ids[0] in text
    assert "1 steps of 8 examples in 2 micro-batches" in text


def test_checkpoints_go_on_under_another_layout(pair: Pair, tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"max_steps": 6, "save_every_steps": 2})
    _train(pair.folder, tmp_path / "undisturbed", settings)

    def stop_at_5(step: int, steps: int, values: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    out = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        LocalTrainer(pair.folder).train(EXAMPLES, settings, out, stop_at_5)
    smaller = settings.model_copy(update={"micro_batch_size": 2, "has_gradient_checkpointing": True})
    result = _train(pair.folder, out, smaller)
    assert result.details["resumed_at_step"] == 4
    assert _losses(out) == pytest.approx(_losses(tmp_path / "undisturbed"), abs=1e-4)


def test_two_processes_train_the_same_adapter_as_one(pair: Pair, tmp_path: Path) -> None:
    examples = tmp_path / "train.jsonl"
    write_records(examples, EXAMPLES)
    held_out = tmp_path / "held_out.jsonl"
    write_records(held_out, HELD_OUT)
    command = [
        "train", str(examples), "--base", str(pair.folder), "--validation", str(held_out), "--method", "lora",
        "--rank", "8", "--dropout", "0", "--batch-size", "8", "--micro-batch-size", "2", "--max-steps", "4",
        "--learning-rate", "1e-3", "--validate-every", "2", "--save-every", "2", "--json",
    ]  # fmt: skip
    two = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "lema_local",
    ]
    outcomes = []
    for name, start in {"one": [sys.executable, "-m", "lema_local"], "two": two}.items():
        done = subprocess.run(
            [*start, *command, "--out", str(tmp_path / name)], capture_output=True, check=False, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        outcomes.append(json.loads(done.stdout))  # one of the two prints
    assert [one["details"]["processes"] for one in outcomes] == [1, 2]
    assert (
        outcomes[1]["details"]["micro_batches_per_step"] == outcomes[0]["details"]["micro_batches_per_step"]
    )
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), abs=1e-5)
    _assert_same_weights(tmp_path / "two" / "adapter", tmp_path / "one" / "adapter", atol=1e-5)
    looks = [read_records(tmp_path / name / VALIDATION_LOG_NAME, ValidationLine) for name in ("one", "two")]
    assert [line.loss for line in looks[1]] == pytest.approx([line.loss for line in looks[0]], abs=1e-5)


def test_missing_reporter_is_told_before_anything_is_loaded(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else real(name, *more)
    )
    settings = SHORT.model_copy(update={"report_to": ("wandb",)})
    with pytest.raises(BackendUnavailable, match=r"train.report_to: wandb is not installed") as caught:
        _train(pair.folder, tmp_path / "out", settings)
    assert caught.value.hint == "pip install wandb, or leave it out"


def test_tensorboard_gets_the_losses(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    _train(pair.folder, tmp_path, SHORT.model_copy(update={"report_to": ("tensorboard",)}))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_all_weights_are_trained_where_asked_for(pair: Pair, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    settings = SHORT.model_copy(update={"method": "full", "learning_rate": 1e-3, "weight_decay": 0.0})
    result = _train(pair.folder, tmp_path, settings)
    assert result.adapter_dir == tmp_path / "model"
    losses = _losses(tmp_path)
    assert losses[-1] < losses[0]
    before, after = (load_file(folder / "model.safetensors") for folder in (pair.folder, result.adapter_dir))
    assert set(before) == set(after)
    for name, weight in before.items():
        assert after[name].dtype == weight.dtype
        assert not np.array_equal(after[name], weight), name
    again = LocalTrainer(result.adapter_dir).base  # with tokenizer and all: a base for what comes next
    assert again.facts.layers == result.details["base"]["layers"]
    exported = LocalTrainer(pair.gguf_path).export(result.adapter_dir, tmp_path / "a.gguf")  # a whole GGUF
    assert exported.bytes == (tmp_path / "a.gguf").stat().st_size > pair.gguf_path.stat().st_size // 2
    with pytest.raises(InputError, match="holds a whole model, not an adapter"):
        export_adapter(result.adapter_dir, pair.gguf_path, tmp_path / "b.gguf")


def test_nothing_is_written_when_student_and_base_cut_prompts_differently(pair: Pair, tmp_path: Path) -> None:
    other = open_student(str(write_pair(tmp_path, add_bos=True).gguf_path))
    with pytest.raises(InputError, match="cut a prompt into different tokens, first at token 0"):
        train_arm(EXAMPLES, LocalTrainer(pair.folder), SHORT, tmp_path / "out", _silent, other)
    other.close()
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
