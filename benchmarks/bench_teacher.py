"""How fast `lema correct` asks, next to bare LiteLLM on the same server in the same run.

    python benchmarks/bench_teacher.py                                  # all of the below
    python benchmarks/bench_teacher.py --case speed                     # 16 and 64 calls in flight, 200 ms a reply
    python benchmarks/bench_teacher.py --case memory --replies 20000    # memory over many replies
    python benchmarks/bench_teacher.py --case resume --replies 100000   # how soon a run over a large journal sends

The server (tests/fake_teacher.py) runs in a process of its own. "lema" is the desk with the journal's commits, the
budget, prompts, parsing and grading of every reply; "bare" is `litellm.acompletion` with nothing around it. Each
measurement is a process of its own, so that neither profits from what the other has set up, and the two take turns, so
that a busy machine slows both. Results are also written to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import psutil
from fake_teacher import FakeTeacherProcess, solve_sum

from lema_local.jsonl import AppendFile, write_records
from lema_local.prompts import load_correction_prompt
from lema_local.records import Question, ReasoningPath
from lema_local.stages.correct import CorrectSettings, Mistake, build_request, correct_mistakes, read_outcome
from lema_local.teachers import open_desk, open_teacher
from lema_local.teachers.base import Answered, RawReply, Teacher
from lema_local.teachers.journal import Journal, Ticket, request_key
from lema_local.teachers.litellm_teacher import import_litellm
from lema_local.teachers.scheduler import DeskSettings

RESULTS = Path(__file__).parent / "results"
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


def compare(count: int, latency_s: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield calls in flight and the speed of both ways, the median over the rounds and each round."""
    first = 1_000_000  # every measurement asks what was never asked before
    with tempfile.TemporaryDirectory() as folder, FakeTeacherProcess(latency_s=latency_s) as server:
        for in_flight in (16, 64):
            rows: dict[str, list[Speed]] = {"bare": [], "lema": []}
            for number in range(rounds):
                for way in sorted(rows, reverse=bool(number % 2)):
                    first += count
                    rows[way].append(measure(way, server.url, count, in_flight, first, folder))
            yield {"in_flight": in_flight, "ideal": in_flight / latency_s} | {
                way: {
                    "rate": middle(speeds, "rate"),
                    "cpu_ms": middle(speeds, "cpu_ms"),
                    "rounds": list(map(asdict, speeds)),
                }
                for way, speeds in rows.items()
            }


def middle(speeds: list[Speed], name: str) -> float:
    return statistics.median(getattr(speed, name) for speed in speeds)


def measure(way: str, url: str, count: int, in_flight: int, first: int, folder: str) -> Speed:
    """Return the speed of one way, in a process of its own."""
    words = [
        "--way",
        way,
        "--url",
        url,
        "--count",
        count,
        "--in-flight",
        in_flight,
        "--first",
        first,
        "--folder",
        folder,
    ]
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Speed(**json.loads(done.stdout))


def run_way(arguments: argparse.Namespace) -> Speed:
    """Return the speed of one way in this process, after a few calls that load and connect what is needed once."""
    url, count, in_flight = arguments.url, arguments.count, arguments.in_flight
    mistakes, few = make_mistakes(count, arguments.first), make_mistakes(20, arguments.first + 500_000)
    if arguments.way == "bare":
        run_bare(url, few, in_flight)
        return run_bare(url, mistakes, in_flight)
    with Journal(Path(arguments.folder) / "journal.sqlite") as journal:
        run_lema(open_teacher("openai/fake", url=url), few, in_flight, journal)
        return run_lema(open_teacher("openai/fake", url=url), mistakes, in_flight, journal)


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
                    seen[f"mib_after_{done}"] = process.memory_info().rss / 2**20
    return seen


def measure_resume(count: int) -> dict[str, float]:
    """Return the seconds until `lema correct` sends its first request where that many replies are there already.

    `other`: a run about 100 mistakes of its own over that journal. `same`: the run that made all these replies goes on,
    with all its corrections, and 20 mistakes left. Both, medians of five, beyond `import_s`: Python's start and
    LiteLLM's import; `bare_s` is a first request by LiteLLM alone, beyond the same: it imports more on its first call.
    `journal_alone_s`: all corrections made again from the journal, where nothing else is left.
    """
    with tempfile.TemporaryDirectory() as name, FakeTeacherProcess() as server:
        folder = Path(name) / "now"
        environment = {**os.environ, "LEMA_HOME": str(folder)}
        mistakes = make_mistakes(count + 20)
        write_mistakes(folder / "same", mistakes)
        write_mistakes(folder / "other", make_mistakes(100, 2 * count))
        write_replies(folder, open_teacher("openai/fake", url=server.url), mistakes[:count])
        before = shutil.copytree(folder, Path(name) / "before")

        def time_first(command: Callable[[], object]) -> float:
            shutil.rmtree(folder)
            shutil.copytree(before, folder)
            os.sync()  # what took a run hours is on the disk long before it goes on
            server.forget_first()
            started = time.time()
            command()
            return float(server.counts()["first_asked_at"]) - started

        def go_on(case: str, total: int, asked: int) -> None:
            told = correct(folder / case, "out.jsonl", server.url, environment)
            assert (told["total"], told["calls"]) == (total, asked)

        python = [sys.executable, "-c"]
        load = "from lema_local.teachers.litellm_teacher import import_litellm; litellm = import_litellm()"
        ask = (
            "import asyncio; asyncio.run(litellm.acompletion(model='openai/fake', api_key='none', "
            f"api_base='{server.url}', messages=[{{'role': 'user', 'content': '1 + 2'}}]))"
        )
        commands: dict[str, Callable[[], object]] = {
            "bare_s": lambda: time_command([*python, f"{load}; {ask}"], environment),
            "other_s": lambda: go_on("other", 100, 100),
            "same_s": lambda: go_on("same", count + 20, 20),
        }
        times: dict[str, list[float]] = {case: [] for case in ("import_s", *commands)}
        for _ in range(5):
            times["import_s"].append(time_command([*python, load], environment))
            for case, command in commands.items():
                times[case].append(time_first(command))
        import_s = statistics.median(times.pop("import_s"))
        found = {"import_s": import_s}
        for case, seconds in times.items():
            found[case] = statistics.median(seconds) - import_s
            found[f"longest_{case}"] = max(seconds) - import_s
        started = time.time()
        told = correct(folder / "same", "again.jsonl", server.url, environment)
        assert told["from_journal"] == count + 20
        return found | {"journal_alone_s": time.time() - started - import_s}


def write_mistakes(folder: Path, mistakes: list[Mistake]) -> None:
    folder.mkdir(parents=True)
    write_records(folder / "questions.jsonl", (question for question, _ in mistakes))
    write_records(folder / "paths.jsonl", (path for _, path in mistakes))


def write_replies(folder: Path, teacher: Teacher, mistakes: list[Mistake]) -> None:
    """Write the journal and the unfinished file of a run that corrected these mistakes and was then killed."""
    partial_path = folder / "same" / "out.jsonl.partial"
    with Journal(folder / "journal.sqlite") as journal, AppendFile(partial_path) as partial:
        for mistake, answered in fill_journal(journal, teacher, mistakes):
            partial.append(read_outcome(*mistake, answered, teacher.name))


def correct(folder: Path, out: str, url: str, environment: dict[str, str]) -> dict[str, Any]:
    """Run `lema correct` to its end; return its summary."""
    command = [
        *(sys.executable, "-c", "from lema_local.cli import main; main()", "--quiet"),
        *("correct", str(folder / "paths.jsonl"), "--questions", str(folder / "questions.jsonl")),
        *("--teacher", "openai/fake", "--teacher-url", url, "--out", str(folder / out), "--json"),
    ]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def time_command(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True)
    return time.perf_counter() - started


def fill_journal(
    journal: Journal, teacher: Teacher, mistakes: list[Mistake]
) -> Iterator[tuple[Mistake, Answered]]:
    """Put an answered request for each mistake into a journal, and yield its reply."""
    for mistake in mistakes:
        request = build_request(*mistake, PROMPT, CorrectSettings())
        text = solve_sum({"messages": request.messages})
        reply = RawReply(text, "fake", "stop", 900, 60, 0.001, 0.2, body={"choices": [text], "usage": {}})
        key = request_key(teacher.name, teacher.identity, request)
        claim = journal.claim(key, teacher.name, teacher.identity, request, worst_usd=0.01, scope="bench")
        ticket = claim.result()
        assert isinstance(ticket, Ticket)
        journal.settle_reply(ticket, reply)
        yield mistake, Answered(reply, key, False)


def report_speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"{'in flight':>9} {'ideal':>7} {'bare':>7} {'lema':>7} {'lema/bare':>9} {'bare':>9} {'lema':>9}")
    print(f"{'':>9} {'calls/s':>7} {'calls/s':>7} {'calls/s':>7} {'':>9} {'cpu ms':>9} {'cpu ms':>9}")
    rows = []
    for row in compare(arguments.count, arguments.latency, arguments.rounds):
        bare, ours = row["bare"], row["lema"]
        row["ratio"] = ours["rate"] / bare["rate"]
        rates = f"{row['ideal']:7.1f} {bare['rate']:7.1f} {ours['rate']:7.1f} {row['ratio']:9.2f}"
        print(f"{row['in_flight']:9d} {rates} {bare['cpu_ms']:9.2f} {ours['cpu_ms']:9.2f}", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=["speed", "memory", "resume"])
    parser.add_argument("--count", type=int, default=1000, help="speed: calls per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.2, help="speed: seconds a reply takes")
    parser.add_argument("--replies", type=int, help="memory [20000], resume [100000]: replies")
    for name, kind in (("way", str), ("url", str), ("folder", str), ("in-flight", int), ("first", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(asdict(run_way(arguments))))
        return
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M")
    results: dict[str, Any] = {"at": stamp, "load_before": os.getloadavg()[0], "cores": os.cpu_count()}
    for case in arguments.case or ("speed", "memory", "resume"):
        if case == "speed":
            results[case] = report_speed(arguments)
            continue
        measured = (
            measure_memory(arguments.replies or 20_000)
            if case == "memory"
            else measure_resume(arguments.replies or 100_000)
        )
        results[case] = measured
        print(f"{case}: {', '.join(f'{name} {value:.2f}' for name, value in measured.items())}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"teacher-{stamp}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
