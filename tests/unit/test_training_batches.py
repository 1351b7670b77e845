"""Which examples each step sees: exactly as many as asked for, whatever the layout."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_local.errors import InputError
from lema_local.training.base import TrainSettings
from lema_local.training.batches import count_steps, plan_batches
from lema_local.training.layout import find_budget, lay_out, learning_rate_for
from lema_local.training.memory import GIB
from lema_local.training.models import Compute
from lema_local.training.shapes import shape_of_config

LENGTHS = [random.Random(0).randint(20, 400) for _ in range(50)]


@given(
    batch_size=st.integers(1, 40),
    micro_batch_size=st.integers(1, 16),
    steps=st.integers(1, 12),
    is_packed=st.booleans(),
    count=st.integers(1, 50),
)
def test_every_step_has_exactly_the_batch_size(
    batch_size: int, micro_batch_size: int, steps: int, is_packed: bool, count: int
) -> None:
    plan = plan_batches(
        LENGTHS[:count], batch_size=batch_size, micro_batch_size=micro_batch_size, steps=steps, seed=1,
        is_packed=is_packed,
    )  # fmt: skip
    rows = plan.micro_batches_per_step
    assert len(plan.micro_batches) == steps * rows
    for step in range(steps):
        batch = plan.micro_batches[step * rows : (step + 1) * rows]
        assert sum(map(len, batch)) == batch_size
        assert all(batch)


def test_layout_does_not_change_what_a_step_sees() -> None:
    plans = [
        plan_batches(LENGTHS, batch_size=16, micro_batch_size=micro, steps=7, seed=3, is_packed=is_packed)
        for micro in (1, 4, 5, 16, 32)
        for is_packed in (True, False)
    ]
    for step in range(1, 8):
        assert len({tuple(plan.step(step)) for plan in plans}) == 1


def test_each_pass_goes_through_all_examples_once_in_another_order() -> None:
    plan = plan_batches(LENGTHS, batch_size=10, micro_batch_size=2, steps=10, seed=0, is_packed=False)
    first, second = plan.micro_batches[:25], plan.micro_batches[25:]
    assert set(Counter(one for row in first for one in row).values()) == {1}
    assert set(Counter(one for row in second for one in row).values()) == {1}
    assert first != second


def test_same_seed_same_plan_and_another_seed_another_one() -> None:
    def plan(seed: int) -> list[list[int]]:
        return plan_batches(
            LENGTHS, batch_size=8, micro_batch_size=4, steps=3, seed=seed, is_packed=True
        ).micro_batches

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_packed_rows_have_nearly_equally_many_tokens() -> None:
    plan = plan_batches(LENGTHS, batch_size=48, micro_batch_size=8, steps=1, seed=0, is_packed=True)
    totals = [sum(LENGTHS[one] for one in row) for row in plan.micro_batches]
    assert max(totals) - min(totals) <= min(LENGTHS)


def test_padded_micro_batches_hold_examples_of_like_length() -> None:
    plan = plan_batches(LENGTHS, batch_size=48, micro_batch_size=8, steps=1, seed=0, is_packed=False)
    padded = sum(max(LENGTHS[one] for one in row) * len(row) for row in plan.micro_batches)
    assert padded <= 1.2 * sum(LENGTHS[one] for row in plan.micro_batches for one in row)


@pytest.mark.parametrize(
    ("examples", "batch_size", "epochs", "max_steps", "expected"),
    [(960, 96, 3.0, None, 30), (100, 96, 3.0, None, 3), (10, 96, 1.0, None, 1), (960, 96, 3.0, 7, 7)],
)
def test_steps_come_from_epochs_unless_given(
    examples: int, batch_size: int, epochs: float, max_steps: int | None, expected: int
) -> None:
    assert count_steps(examples, batch_size, epochs, max_steps) == expected


SHAPE = shape_of_config(
    {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
     "num_attention_heads": 32, "vocab_size": 32000}, "7B",
)  # fmt: skip
ON_CPU, ON_CARD = Compute("cpu", "float32"), Compute("cuda:0", "bfloat16")
SHORT = TrainSettings(batch_size=16, max_steps=4)


def test_machine_decides_the_layout_where_the_settings_leave_it_open() -> None:
    on_cpu = lay_out(SHORT, ON_CPU, SHAPE, LENGTHS, 100 * GIB).settings
    assert (on_cpu.is_packed, on_cpu.micro_batch_size, on_cpu.has_gradient_checkpointing) == (False, 8, False)
    on_card = lay_out(SHORT, ON_CARD, SHAPE, LENGTHS, 12 * GIB)
    assert (on_card.settings.is_packed, on_card.settings.has_gradient_checkpointing) == (True, True)
    given = {
        "is_packed": True,
        "micro_batch_size": 3,
        "has_gradient_checkpointing": True,
        "learning_rate": 1e-3,
    }
    settings = SHORT.model_copy(update=given)
    assert lay_out(settings, ON_CPU, SHAPE, LENGTHS, 100 * GIB).settings == settings


def test_more_memory_takes_more_examples_at_once_and_the_rows_stay_within_it() -> None:
    long = [1024] * 40
    found = [lay_out(SHORT, ON_CARD, SHAPE, long, size * GIB) for size in (8, 12, 16, 24)]
    assert [one.settings.micro_batch_size for one in found] == [2, 6, 8, 2]
    assert [one.settings.has_gradient_checkpointing for one in found] == [True, True, True, False]
    for one, size in zip(found, (8, 12, 16, 24), strict=True):
        assert one.tokens_at_once == 1024 * (one.settings.micro_batch_size or 0)
        assert one.estimate is not None
        assert one.estimate.least <= size * GIB
    assert len({tuple(one.plan.step(step)) for one in found for step in (2,)}) == 1


def test_micro_batch_that_cannot_fit_is_refused_with_one_that_does() -> None:
    settings = SHORT.model_copy(update={"micro_batch_size": 16})
    assert lay_out(settings, ON_CARD, SHAPE, [100] * 40, 8 * GIB).tokens_at_once == 1600
    with pytest.raises(InputError, match="16,384 tokens at once needs") as caught:
        lay_out(settings, ON_CARD, SHAPE, [1024] * 40, 8 * GIB)
    assert "train.micro_batch_size: 2 fits" in (caught.value.hint or "")


@pytest.mark.parametrize(("layers", "expected"), [(32, 2e-4), (180, 1e-4)])
def test_learning_rate_is_the_papers_for_the_size(layers: int, expected: float) -> None:
    shape = replace(SHAPE, layers=layers)
    assert learning_rate_for(TrainSettings(), shape) == expected
    assert learning_rate_for(TrainSettings(learning_rate=3e-3), shape) == 3e-3
    assert learning_rate_for(TrainSettings(), None) == 2e-4


def test_unknown_architecture_gets_a_careful_layout() -> None:
    found = lay_out(SHORT, ON_CARD, None, LENGTHS, 8 * GIB)
    assert (found.settings.micro_batch_size, found.settings.has_gradient_checkpointing) == (4, True)
    assert found.estimate is None


def test_preset_needs_its_card() -> None:
    preset = TrainSettings(memory="24gb")
    with pytest.raises(InputError, match="memory: 24gb needs a CUDA card") as caught:
        find_budget(preset, ON_CPU, total=64 * GIB, free=60 * GIB)
    assert "pytorch.org" in (caught.value.hint or "")
    with pytest.raises(InputError, match=r"memory: 24gb, but the card has 12.0 GiB"):
        find_budget(preset, ON_CARD, total=12 * GIB, free=11 * GIB)
    assert find_budget(preset, ON_CARD, total=int(23.6 * GIB), free=23 * GIB) == 23 * GIB
    assert find_budget(TrainSettings(), ON_CPU, total=64 * GIB, free=60 * GIB) == 60 * GIB


def test_processes_share_every_step_evenly() -> None:
    plan = plan_batches(
        LENGTHS, batch_size=16, micro_batch_size=3, steps=2, seed=0, is_packed=False, processes=4
    )
    assert plan.micro_batches_per_step == 8
    assert sum(map(len, plan.micro_batches[:8])) == 16
    with pytest.raises(InputError, match="batch_size 16 cannot be shared by 3 processes"):
        plan_batches(
            LENGTHS, batch_size=16, micro_batch_size=3, steps=2, seed=0, is_packed=False, processes=3
        )
