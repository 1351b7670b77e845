"""How fast `lema correct` asks, next to bare LiteLLM on the same server in the same run.

    python benchmarks/bench_teacher.py                    # 16 and 64 calls in flight, 200 ms a reply
    python benchmarks/bench_teacher.py --replies 20000    # memory over many replies
    python benchmarks/bench_teacher.py --resume 100000    # how soon a run over a large journal sends

The server (tests/fake_teacher.py) runs in a process of its own. "lema" is the desk with the journal's commits, the
budget, prompts and parsing of every reply; "bare" is `litellm.acompletion` with nothing around it. The two take
turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import psutil
from fake_teacher import FakeTeacherProcess

from lema_local.prompts import load_correction_prompt
from lema_local.records import Question, ReasoningPath
from lema_local.stages.correct import CorrectSettings, Mistake, build_request, correct_mistakes
from lema_local.teachers import open_desk, open_teacher
from lema_local.teachers.base import RawReply, Teacher
from lema_local.teachers.journal import Journal, Ticket
from lema_local.teachers.litellm_teacher import import_litellm
from lema_local.teachers.scheduler import DeskSettings

PROMPT = load_correction_prompt("correct-gsm8k")


def make_mistakes(count: int, first: int = 0) -> list[Mistake]:
    return list(iterate_mistakes(count, first))


def iterate_mistakes(count: int, first: int = 0) -> Iterator[Mistake]:
    for number in range(first, first + count):
        a, b = number + 2, number + 5
        question = Question(
            id=f"q{number}",
            dataset="own",
            split="train",
            question=f"What is {a} + {b}?",
            gold_answer=str(a + b),
        )
        path = ReasoningPath(
            question_id=question.id,
            sample_index=0,
            seed=1,
            student="s",
            text=f"Step 1: {a} + {b} = {a + b + 1}.\nStep 2: The answer is {a + b + 1}.",
            final_answer=str(a + b + 1),
            verdict="wrong",
            rule="numeric",
            stop_reason="end",
            prompt_tokens=1,
            completion_tokens=1,
        )
        yield question, path


def run_lema(teacher: Teacher, mistakes: list[Mistake], concurrency: int, journal: Journal) -> Speed:
    """Return the speed of the whole way of a correction."""
    settings = CorrectSettings(concurrency=concurrency)
    desk_settings = DeskSettings.from_stage(settings)
    with (
        timed(len(mistakes)) as speed,
        open_desk(teacher, journal, desk_settings, scope="bench", max_usd=1e6) as desk,
    ):
        verdicts = [correction.verdict for correction in correct_mistakes(mistakes, desk, PROMPT, settings)]
    assert len(verdicts) == len(mistakes)
    assert "failed" not in verdicts
    return speed[0]


def run_bare(url: str, mistakes: list[Mistake], concurrency: int) -> Speed:
    """Return the speed of LiteLLM alone, with the same prompts."""
    litellm = import_litellm()
    requests = [build_request(*mistake, PROMPT, CorrectSettings()) for mistake in mistakes]

    async def work() -> None:
        slots = asyncio.Semaphore(concurrency)

        async def ask(messages: Any) -> None:
            async with slots:
                await litellm.acompletion(
                    model="openai/fake",
                    api_base=url,
                    api_key="none",
                    messages=[dict(message) for message in messages],
                    temperature=0.0,
                    max_tokens=1024,
                    num_retries=0,
                    max_retries=0,
                )

        await asyncio.gather(*(ask(request.messages) for request in requests))
        await litellm.close_litellm_async_clients()

    with timed(len(mistakes)) as speed:
        asyncio.run(work())
    return speed[0]


@dataclass(frozen=True)
class Speed:
    """Calls per second, and the milliseconds of processor time that a call took in this process."""

    rate: float
    cpu_ms: float


def compare(count: int, latency_s: float, rounds: int) -> Iterator[tuple[int, Speed, Speed]]:
    """Yield calls in flight and the speed of both ways, the best of each over the rounds."""
    numbers = itertools.count(1_000_000, count)  # every measurement asks what was never asked before
    with tempfile.TemporaryDirectory() as folder, FakeTeacherProcess(latency_s=latency_s) as server:
        run_bare(server.url, make_mistakes(20), 8)  # what is imported and connected only once
        teacher = open_teacher("openai/fake", url=server.url)
        for concurrency in (16, 64):
            bare, ours = [], []
            for _ in range(rounds):
                bare.append(run_bare(server.url, make_mistakes(count, next(numbers)), concurrency))
                with Journal(Path(folder) / "journal.sqlite") as journal:
                    ours.append(run_lema(teacher, make_mistakes(count, next(numbers)), concurrency, journal))
            yield concurrency, max(bare, key=_by_rate), max(ours, key=_by_rate)


def _by_rate(speed: Speed) -> float:
    return speed.rate


@contextmanager
def timed(count: int) -> Iterator[list[Speed]]:
    """Put the speed of `count` calls made in the block into the list."""
    found: list[Speed] = []
    started, cpu_started = time.perf_counter(), time.process_time()
    yield found
    cpu_ms = 1000 * (time.process_time() - cpu_started) / count
    found.append(Speed(count / (time.perf_counter() - started), cpu_ms))


def measure_memory(count: int) -> dict[str, float]:
    """Return the resident memory after a tenth and after all of many replies, in MiB."""
    process, seen = psutil.Process(), {}
    settings = CorrectSettings(concurrency=64)
    with tempfile.TemporaryDirectory() as folder, FakeTeacherProcess() as server:
        teacher = open_teacher("openai/fake", url=server.url)
        with (
            Journal(Path(folder) / "journal.sqlite") as journal,
            open_desk(teacher, journal, DeskSettings.from_stage(settings), scope="bench") as desk,
        ):
            for done, _ in enumerate(correct_mistakes(iterate_mistakes(count), desk, PROMPT, settings), 1):
                if done in {count // 10, count // 2, count}:
                    seen[f"after {done}"] = process.memory_info().rss / 2**20
    return seen


def measure_resume(count: int) -> dict[str, float]:
    """Return the seconds from opening a journal of many replies until the first request arrives."""
    settings = CorrectSettings(concurrency=8)
    with tempfile.TemporaryDirectory() as folder, FakeTeacherProcess() as server:
        path = Path(folder) / "journal.sqlite"
        teacher = open_teacher("openai/fake", url=server.url)
        with Journal(path) as journal:
            fill_journal(journal, teacher, count)
        import_litellm()
        started = time.perf_counter()
        with (
            Journal(path) as journal,
            open_desk(teacher, journal, DeskSettings.from_stage(settings), scope="bench") as desk,
        ):
            opened = time.perf_counter() - started
            corrections = correct_mistakes(make_mistakes(100, count), desk, PROMPT, settings)
            next(corrections)
            first = time.perf_counter() - started
            corrections.close()
        started = time.perf_counter()
        with (
            Journal(path) as journal,
            open_desk(teacher, journal, DeskSettings.from_stage(settings), scope="bench") as desk,
        ):
            for _ in correct_mistakes(iterate_mistakes(count), desk, PROMPT, settings):
                pass
            assert desk.count.from_journal == count
        return {"open_s": opened, "first_reply_s": first, "all_from_journal_s": time.perf_counter() - started}


def fill_journal(journal: Journal, teacher: Teacher, count: int) -> None:
    """Put `count` answered requests into a journal."""
    text = "Step 1.\nExplanation: x\nCorrect Solution: {\nStep 1: The answer is 5.\n}"
    reply = RawReply(text, "fake", "stop", 900, 60, 0.001, 0.2, body={"choices": [text], "usage": {}})
    settled = []
    from lema_local.teachers.journal import request_key

    for question, path in make_mistakes(count):
        request = build_request(question, path, PROMPT, CorrectSettings())
        key = request_key(teacher.name, teacher.identity, request)
        ticket = journal.claim(
            key, teacher.name, teacher.identity, request, worst_usd=0.01, scope="bench"
        ).result()
        assert isinstance(ticket, Ticket)
        settled.append(journal.settle_reply(ticket, reply))
    for future in settled:
        future.result()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="calls per measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds a reply takes")
    parser.add_argument("--replies", type=int, help="measure memory over so many replies instead")
    parser.add_argument(
        "--resume", type=int, help="measure a resume over a journal of so many replies instead"
    )
    arguments = parser.parse_args()
    if arguments.replies:
        print(json.dumps(measure_memory(arguments.replies)))
    elif arguments.resume:
        print(json.dumps(measure_resume(arguments.resume)))
    else:
        print(
            f"{'in flight':>9} {'ideal':>7} {'bare':>7} {'lema':>7} {'lema/bare':>9} {'bare':>9} {'lema':>9}"
        )
        print(f"{'':>9} {'calls/s':>7} {'calls/s':>7} {'calls/s':>7} {'':>9} {'cpu ms':>9} {'cpu ms':>9}")
        for slots, bare, ours in compare(arguments.count, arguments.latency, arguments.rounds):
            rates = f"{slots / arguments.latency:7.1f} {bare.rate:7.1f} {ours.rate:7.1f} {ours.rate / bare.rate:9.2f}"
            print(f"{slots:9d} {rates} {bare.cpu_ms:9.2f} {ours.cpu_ms:9.2f}", flush=True)


if __name__ == "__main__":
    main()
