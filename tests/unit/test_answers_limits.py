"""Model text may hang a solver: nothing here may take the process with it."""

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lema_local.answers import compare_answers, symbolic
from lema_local.answers.symbolic import has_workers, stop_workers

# Processor time is limited to two seconds; by the clock a busy machine may need several times that.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _fresh_verdicts() -> Iterator[None]:
    symbolic._ask.cache_clear()
    yield
    symbolic._ask.cache_clear()


@pytest.mark.parametrize(
    "prediction",
    [
        "9**9**9**9",
        "9^{9^{9^9}}",
        "2^{2^{2^{2^{2^2}}}}",
        "(10^{10^{10}})!",
    ],
)
def test_what_would_take_for_ever_ends_undecided(prediction: str) -> None:
    assert compare_answers("9", prediction).is_equal is None


@pytest.mark.parametrize(
    "prediction",
    [
        "(" * 10_000 + "1" + ")" * 10_000,
        "9" * 1_000_000,
        "x" + "+x" * 500_000,
        "\\frac{" * 5_000,
        "1\x002",
        "\0",
    ],
    ids=["brackets", "digits", "sum", "fractions", "nul-inside", "nul"],
)
def test_what_is_no_answer_at_all_is_undecided_at_once(prediction: str) -> None:
    assert compare_answers("9", prediction).is_equal is None


def test_others_go_on_while_one_hangs() -> None:
    found: dict[str, bool | None] = {}

    def compare(prediction: str) -> None:
        found[prediction] = compare_answers("x^2+2x+1", prediction).is_equal

    predictions = ["9^{9^{9^9}}", "(x+1)^2", "(x-1)^2", "1+2x+x^2"]
    threads = [threading.Thread(target=compare, args=(prediction,)) for prediction in predictions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {"9^{9^{9^9}}": None, "(x+1)^2": True, "(x-1)^2": False, "1+2x+x^2": True}


def test_the_limit_is_for_an_answer_however_many_parts_it_has() -> None:
    towers = ", ".join(f"9^{{9^{{9^9}}}}+{number}" for number in range(4))

    assert compare_answers("1, 2, 3, 4", towers).is_equal is None
    assert symbolic._ask.cache_info().misses == 1  # each has two seconds of a worker's time


def test_one_that_hangs_holds_up_few_others_of_a_list() -> None:
    predictions = ["9^{9^{9^9}}", "(10^{10^{10}})!", *(f"x+1+{number}-{number}" for number in range(20))]

    found = list(symbolic.map_answers(lambda one: compare_answers("x+1", one).is_equal, predictions))

    assert found == [None, None] + [True] * 20


def test_where_the_system_keeps_no_limit_a_thread_watches_the_memory() -> None:
    run = _run(
        """
        import threading
        from lema_local.answers.solver import watch_memory
        threading.Thread(target=watch_memory, args=(50, 0.01), daemon=True).start()
        held = []
        for _ in range(500):
            held.append(b"x" * 2**20)
            threading.Event().wait(0.005)
        print("never stopped")
        """
    )

    assert (run.returncode, run.stdout) == (1, "")


def test_a_worker_that_wants_too_much_memory_is_not_the_end() -> None:
    assert compare_answers("9", "\\binom{10^{9}}{5 \\cdot 10^{8}}").is_equal is None
    assert compare_answers("2\\sqrt{3}", "\\sqrt{12}").is_equal is True


def test_workers_can_be_stopped_and_come_back() -> None:
    assert compare_answers("2\\sqrt{3}", "\\sqrt{12}").is_equal is True
    stop_workers()
    assert not has_workers()

    assert compare_answers("2\\sqrt{5}", "\\sqrt{20}").is_equal is True


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_plain_answers_start_no_worker() -> None:
    run = _run(
        """
        import sys
        from lema_local.answers import compare_answers, extract_answer
        from lema_local.answers.symbolic import has_workers
        answer = extract_answer("She has 48 + 24 = 72 clips. The answer is 72 clips.")
        assert compare_answers("72", answer).is_equal
        assert compare_answers("1/2", "0.5").is_equal
        assert not compare_answers("(1, 2)", "(2, 1)").is_equal
        assert not compare_answers("72", "apples").is_equal
        assert not has_workers()
        print(sorted(name for name in ("sympy", "math_verify", "pebble", "scipy") if name in sys.modules))
        """
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "[]\n", "")


def test_the_process_ends_cleanly_with_workers_running() -> None:
    run = _run(
        """
        from lema_local.answers import compare_answers
        if __name__ == "__main__":
            print(compare_answers("2\\\\sqrt{3}", "\\\\sqrt{12}").is_equal)
        """
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "True\n", "")


SCRIPT = """
from lema_local.answers import compare_answers
print(compare_answers("2\\\\sqrt{3}", "\\\\sqrt{12}").is_equal)
"""


@pytest.mark.parametrize("way", ["file", "pipe", "module"])
def test_a_script_needs_no_guard_for_the_workers(tmp_path: Path, way: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    arguments = {"file": ["script.py"], "pipe": ["-"], "module": ["-m", "script"]}[way]

    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        input=SCRIPT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "True\n", "")


@pytest.mark.parametrize(
    "prediction",
    [
        "__import__('os').system('echo broken > /tmp/lema-broken')",
        "exec('1')",
        "().__class__",
        "\\input{/etc/passwd}",
        "lambda: 0",
        "import os",
    ],
)
def test_an_answer_is_never_run(prediction: str) -> None:
    assert compare_answers("x+1", prediction).is_equal is not True
