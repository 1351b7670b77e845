from __future__ import annotations

import random
import threading

import pytest

from lema_local.errors import BudgetReached
from lema_local.teachers.budget import Budget, Reservation


def reserve(budget: Budget, usd: float) -> Reservation:
    reservation = budget.reserve(usd)
    assert reservation is not None
    return reservation


def test_without_caps_everything_fits() -> None:
    budget = Budget()
    for _ in range(100):
        budget.settle(reserve(budget, 1000.0), 999.0)
    assert budget.spent_usd == pytest.approx(99_900)
    assert budget.calls == 100


def test_a_call_waits_while_those_in_flight_may_turn_out_cheaper() -> None:
    budget = Budget(1.0)
    first = reserve(budget, 0.6)
    assert budget.reserve(0.6) is None
    budget.settle(first, 0.1)
    assert budget.reserve(0.6) is not None


def test_a_call_that_cannot_fit_is_refused_even_while_others_are_in_flight() -> None:
    budget = Budget(1.0, spent_usd=0.5)
    reserve(budget, 0.2)
    with pytest.raises(BudgetReached, match=r"\$0.5000 spent, and the next call may cost \$0.6000"):
        budget.reserve(0.6)


def test_what_was_spent_before_counts() -> None:
    with pytest.raises(BudgetReached):
        Budget(1.0, spent_usd=0.95).reserve(0.1)


def test_the_cap_itself_may_be_spent_whole() -> None:
    budget = Budget(0.3)
    for _ in range(3):
        budget.settle(reserve(budget, 0.1), 0.1)
    with pytest.raises(BudgetReached):
        budget.reserve(0.1)


def test_a_cap_of_nothing_lets_free_calls_through() -> None:
    budget = Budget(0.0)
    budget.settle(reserve(budget, 0.0), 0.0)
    with pytest.raises(BudgetReached):
        budget.reserve(1e-6)


def test_calls_are_capped_too_and_one_that_was_never_sent_is_given_back() -> None:
    budget = Budget(max_calls=2)
    reserve(budget, 0.0)
    withdrawn = reserve(budget, 0.0)
    budget.withdraw(withdrawn)
    reserve(budget, 0.0)
    with pytest.raises(BudgetReached, match="2 calls"):
        budget.reserve(0.0)


def test_spent_and_reserved_never_pass_the_cap_with_64_threads() -> None:
    budget = Budget(10.0)
    highest = [0.0]
    lock = threading.Lock()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        while True:
            worst = rng.uniform(0.01, 0.3)
            try:
                reservation = budget.reserve(worst)
            except BudgetReached:
                return
            with lock:
                highest[0] = max(highest[0], budget.spent_usd + budget.reserved_usd)
            if reservation is not None:
                budget.settle(reservation, rng.uniform(0, worst))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 9.5 < budget.spent_usd <= 10.0
    assert highest[0] <= 10.0 + 1e-6
