"""How fast answers are graded: GSM8K-style paths on one core, and MATH-style pairs against Math-Verify alone.

    python benchmarks/bench_grade.py [--data FOLDER] [--json]

FOLDER (default: $LEMA_DATA) holds student_outputs/rho-math-1b_gsm8k_cot.jsonl and qwen2.5-math_math100x8.jsonl;
without it the paths are made up and the second part is left out. Rates are per second of processor time of this
process and its workers, so that a busy machine does not change them much; the clock's stand beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from lema_local.answers import compare_answers, cut_at_next_question, extract_answer, grade_path
from lema_local.answers.numbers import parse_number
from lema_local.records import Question


def measure(work: Callable[[], int]) -> dict[str, float]:
    """Return the number of things done per second of processor time and of the clock."""
    clock, before = time.perf_counter(), processor_s()
    count = work()
    seconds, used = time.perf_counter() - clock, processor_s() - before
    return {"n": count, "per_cpu_s": round(count / used), "per_s": round(count / seconds)}


def processor_s() -> float:
    """Return the processor time of this process and all below it: the fork server, its workers, those that ended."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def made_up_paths(count: int = 2000) -> list[tuple[str, Question]]:
    draw = random.Random(0)
    paths = []
    for number in range(count):
        a, b = draw.randint(2, 99), draw.randint(2, 99)
        text = f"Natalia sold {a} clips in April.\nShe sold {b} clips in May.\nThat is {a} + {b} = {a + b} clips.\n"
        asked = Question(
            id=str(number), dataset="gsm8k", split="test", question="?", gold_answer=str(a + b + number % 2)
        )
        paths.append((f"{text}The answer is {a + b}.", asked))
    return paths


def read_paths(data: Path | None) -> list[tuple[str, Question]]:
    if data is None:
        return made_up_paths()
    return [
        (
            row["code"][0],
            Question(
                id=str(row["idx"]),
                dataset="gsm8k",
                split="test",
                question=row["question"],
                gold_answer=row["gt"],
            ),
        )
        for row in map(
            json.loads, (data / "student_outputs/rho-math-1b_gsm8k_cot.jsonl").open(encoding="utf-8")
        )
    ]


def bench_gsm8k(data: Path | None, repeats: int = 10) -> dict[str, float]:
    paths = read_paths(data)
    # What needs no solver, as nearly all of GSM8K; the others are in the second part.
    plain = [(text, question) for text, question in paths if grade_path(text, question).rule != "symbolic"]

    def work() -> int:
        for _ in range(repeats):
            parse_number.cache_clear()
            for text, question in plain:
                grade_path(text, question, stop_reason="unknown")
        return repeats * len(plain)

    return measure(work)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def read_pairs(data: Path) -> list[tuple[str, str]]:
    folder = data / "student_outputs"
    texts = [
        (row["gt"], text)
        for row in _read_rows(folder / "qwen2.5-math_math100x8.jsonl")
        for text in row["code"]
    ]
    for seed in range(3):
        rows = _read_rows(folder / f"output-rs{seed}.jsonl")
        texts += [(row["expected_answer"], row["generation"]) for row in rows]
    answers = [(gold, extract_answer(cut_at_next_question(text))) for gold, text in texts]
    pairs = [(gold, answer) for gold, answer in answers if answer]
    return sorted(set(pairs))  # the eight samples of a question mostly agree: a cache must not answer them


def bench_math(data: Path) -> dict[str, Any]:
    """Return our rate and Math-Verify's on the same pairs of MATH's gold answers and real answers."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    pairs = read_pairs(data)
    verify(parse("$x+1$", parsing_timeout=None), parse("$1+x$", parsing_timeout=None), timeout_seconds=None)
    compare_answers("x+1", "1+x+0")  # both have loaded their libraries

    parse_number.cache_clear()

    def ours() -> int:
        for gold, answer in pairs:
            compare_answers(gold, answer)
        return len(pairs)

    def theirs() -> int:
        for gold, answer in pairs:
            verify(
                parse(f"${gold}$", parsing_timeout=None),
                parse(f"${answer}$", parsing_timeout=None),
                timeout_seconds=None,
            )
        return len(pairs)

    return {"lema": measure(ours), "math_verify": measure(theirs)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("LEMA_DATA"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = Path(options.data) if options.data else None
    result: dict[str, Any] = {"gsm8k_paths": bench_gsm8k(data)}
    if data is not None:
        result["math_pairs"] = bench_math(data)
    if options.json:
        print(json.dumps(result))
        return
    print(f"GSM8K-style paths, extract + compare: {result['gsm8k_paths']}")
    if "math_pairs" in result:
        pairs = result["math_pairs"]
        ratio = pairs["lema"]["per_cpu_s"] / max(1, pairs["math_verify"]["per_cpu_s"])
        print(f"MATH-style pairs, lema:               {pairs['lema']}")
        print(f"MATH-style pairs, Math-Verify:        {pairs['math_verify']}\nratio: {ratio:.1f}")


if __name__ == "__main__":
    main()
