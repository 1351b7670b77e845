"""Training on the formats with the real parts: pairs by TRL's DPO, and wrong steps that carry no loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tiny_hf import Pair, make_examples, write_pair

from lema_local.errors import InputError
from lema_local.jsonl import read_records
from lema_local.records import AnyExample, PreferenceExample
from lema_local.stages.export import check_exported
from lema_local.students import open_student
from lema_local.training.base import TrainResult, TrainSettings, Validation
from lema_local.training.checkpoints import LogLine
from lema_local.training.local import LocalTrainer, read_training_record

SETTINGS = TrainSettings(
    lora_rank=8, lora_alpha=16, lora_dropout=0.0, learning_rate=1e-3, dpo_learning_rate=1e-2, batch_size=8,
    micro_batch_size=4, max_steps=12, max_grad_norm=1.0, weight_decay=0.0, save_every_steps=4,
)  # fmt: skip


def _pairs(count: int) -> list[PreferenceExample]:
    """Prefer each example's own completion to the next one's."""
    examples = make_examples(count)
    return [
        PreferenceExample(
            id=f"{one.id}/preference", prompt=f"{one.prompt}the ", answer_start=len(one.prompt),
            chosen=one.completion, rejected=other.completion + " in", question_id=one.question_id,
            source={"kind": "correction"},
        )
        for one, other in zip(examples, [*examples[1:], examples[0]], strict=True)
    ]  # fmt: skip


PAIRS = _pairs(16)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


def _train(
    tiny: Pair, out_dir: Path, examples: list[AnyExample] | list[PreferenceExample], **changes: object
) -> tuple[TrainResult, list[float], list[str]]:
    told: list[str] = []
    validation = Validation(make_examples(3))
    result = LocalTrainer(tiny.gguf_path).train(
        examples,
        SETTINGS.model_copy(update=changes),
        out_dir,
        lambda *_: None,
        validation=validation,
        tell=told.append,
    )
    return result, [line.loss for line in read_records(out_dir / "train_log.jsonl", LogLine)], told


def test_pairs_are_learnt_by_dpo_from_the_base_exported_and_the_same_student(
    tiny: Pair, tmp_path: Path
) -> None:
    result, losses, told = _train(tiny, tmp_path, PAIRS)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)  # student and reference are one
    assert losses[-1] < 0.5
    record = read_training_record(result.adapter_dir)
    assert record is not None
    assert (record.settings.method, result.trained_tokens_by_kind.keys()) == ("dpo", {"preference"})
    assert any("the last adapter is the one kept" in line for line in told)
    assert not list(result.adapter_dir.glob("ref*"))
    trainer, gguf = LocalTrainer(tiny.gguf_path), tmp_path / "adapter.gguf"
    trainer.export(result.adapter_dir, gguf)
    bare, adapted = open_student(str(tiny.gguf_path)), open_student(str(tiny.gguf_path), adapter=gguf)
    prompts = [one.prompt for one in make_examples(6)]
    found = check_exported(
        trainer, result.adapter_dir, prompts, adapted=adapted, bare=bare, max_tokens=8, others={}
    )
    assert found.divergence is not None
    assert found.divergence.is_within_bound
    assert found.is_adapter_noticed
    assert found.nf4_greedy_equal is not None
    bare.close()
    adapted.close()


def test_how_a_step_is_computed_changes_no_loss_of_pairs(tiny: Pair, tmp_path: Path) -> None:
    _, four, _ = _train(tiny, tmp_path / "four", PAIRS, max_steps=3)
    _, three, _ = _train(tiny, tmp_path / "three", PAIRS, max_steps=3, micro_batch_size=3, is_packed=True)
    assert three == pytest.approx(four, rel=1e-4)


def test_a_training_on_pairs_goes_on_where_it_was_interrupted(tiny: Pair, tmp_path: Path) -> None:
    _, whole, _ = _train(tiny, tmp_path / "whole", PAIRS, max_steps=6)

    def stop(step: int, steps: int, values: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    settings = SETTINGS.model_copy(update={"max_steps": 6})
    with pytest.raises(KeyboardInterrupt):
        LocalTrainer(tiny.gguf_path).train(PAIRS, settings, tmp_path / "cut", stop)
    result = LocalTrainer(tiny.gguf_path).train(PAIRS, settings, tmp_path / "cut", lambda *_: None)
    assert result.details["resumed_at_step"] == 4
    again = [line.loss for line in read_records(tmp_path / "cut" / "train_log.jsonl", LogLine)]
    assert again == pytest.approx(whole, rel=1e-5)


def test_pairs_are_chosen_by_answers_where_they_are_asked_for(tiny: Pair, tmp_path: Path) -> None:
    scores = iter([0.5, 1.0, 0.0])
    validation = Validation(make_examples(3), lambda _: next(scores))
    settings = SETTINGS.model_copy(
        update={"max_steps": 6, "validate_every_steps": 2, "validate_answers_every": 1}
    )
    result = LocalTrainer(tiny.gguf_path).train(
        PAIRS, settings, tmp_path, lambda *_: None, validation=validation
    )
    assert result.details["best"]["step"] == 4
    assert result.details["best"]["loss"] > 0


def test_a_wrong_step_without_loss_is_read_and_not_learnt_packed_or_padded(
    tiny: Pair, tmp_path: Path
) -> None:
    plain = make_examples(8)
    masked = [one.model_copy(update={"masked": [(0, 5)]}) for one in plain]
    _, padded, _ = _train(tiny, tmp_path / "padded", list(masked), max_steps=2, is_packed=False)
    _, packed, _ = _train(tiny, tmp_path / "packed", list(masked), max_steps=2, is_packed=True)
    result, whole, _ = _train(tiny, tmp_path / "whole", list(plain), max_steps=2, is_packed=False)
    assert packed == pytest.approx(padded, rel=1e-4)
    assert padded[0] != pytest.approx(whole[0], rel=1e-4)
    record = read_training_record(tmp_path / "packed" / "adapter")
    assert record is not None
    assert record.result.trained_tokens < result.trained_tokens


@pytest.mark.parametrize(
    ("examples", "method", "told"),
    [
        (make_examples(4), "dpo", "these are plain examples"),
        (PAIRS, "full", "the reference is the base without it"),
    ],
)
def test_a_method_that_does_not_fit_the_file_is_refused(
    tiny: Pair, tmp_path: Path, examples: list[AnyExample], method: str, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        _train(tiny, tmp_path, examples, method=method)
