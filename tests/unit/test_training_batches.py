"""Which examples each step sees: exactly as many as asked for, whatever the layout."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_local.training.base import TrainSettings
from lema_local.training.batches import count_steps, plan_batches
from lema_local.training.local import lay_out
from lema_local.training.models import Compute

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


def test_machine_decides_the_layout_where_the_settings_leave_it_open() -> None:
    cpu, gpu = Compute("cpu", "float32"), Compute("cuda:0", "bfloat16")
    on_cpu, on_gpu = lay_out(TrainSettings(), cpu), lay_out(TrainSettings(), gpu)
    assert (on_cpu.is_packed, on_cpu.micro_batch_size) == (False, 8)
    assert (on_gpu.is_packed, on_gpu.micro_batch_size) == (True, 4)
    given = TrainSettings(is_packed=True, micro_batch_size=3)
    assert lay_out(given, cpu) == given
