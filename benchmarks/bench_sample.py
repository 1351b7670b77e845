"""How fast paths are sampled, next to the other ways and to the machine's own limit, in the same run.

    python benchmarks/bench_sample.py                    # the whole table; minutes
    python benchmarks/bench_sample.py --case questions   # one case: questions, prefix, wall, memory
    LLAMA_SERVER=/path/to/llama-server python benchmarks/bench_sample.py

The ways: (a) this engine; (b) llama-cpp-python's high-level API, one sequence after another (measured on a part of the
work, told as tokens per second); (c) llama-server at its best number of slots, where LLAMA_SERVER names one; (d) bare
`llama_decode` with the very batches that (a) made, no token chosen, no text. The model is random, of Qwen2-0.5B's
shape, Q4_0. (a) and (d) take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import psutil
from tiny_gguf import TinyModel, write_model

from lema_local.records import Question
from lema_local.students import llamacpp
from lema_local.students.base import Completion, DecodeSettings, EngineOptions, SampleRequest
from lema_local.students.decoder import Decoder, Layout
from lema_local.students.endpoint import EndpointStudent
from lema_local.students.inspection import requantize_gguf
from lema_local.students.layout import physical_cores
from lema_local.students.llamacpp import LlamaStudent
from lema_local.students.model import Model
from lema_local.students.native import library

CACHE = Path(".cache/bench")
RESULTS = Path(__file__).parent / "results"
QWEN_SHAPE = TinyModel(
    "qwen2", hidden=896, layers=24, heads=14, kv_heads=2, feed_forward=4864, context=32768,
    extra_vocabulary=151_936 - 274, is_tied=True, is_half=True,
)  # fmt: skip
LETTERS = "bcdfgjklm"
"""No two of them are merged by the tiny tokenizer: one token each."""
DRAWN = DecodeSettings(temperature=0.7, top_k=40, top_p=0.95, max_tokens=64)
Op = tuple[str, tuple[Any, ...]]
Row = dict[str, Any]


def qwen_model() -> Path:
    """Return the random model, made once."""
    path = CACHE / "qwen2-0.5b-shape-q4_0.gguf"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        half = write_model(CACHE / "half.gguf", QWEN_SHAPE)
        requantize_gguf(half, path, "q4_0")
        half.unlink()
    return path


def make_requests(questions: int, samples: int, prefix: int, own: int) -> list[SampleRequest]:
    """Return requests whose prompts have `prefix` tokens in common and `own` tokens of their own."""
    draw = random.Random(7)
    start = "".join(draw.choices(LETTERS, k=prefix))
    prompts = [start + "".join(draw.choices(LETTERS, k=own)) for _ in range(questions)]
    return [
        SampleRequest(f"q{number}", index, prompt, seed=number * samples + index)
        for number, prompt in enumerate(prompts)
        for index in range(samples)
    ]


class Recorder(Decoder):
    """Notes everything that is done to the context."""

    ops: list[Op] = []  # noqa: RUF012 - shared on purpose: the student makes the instance

    def decode(self, count: int) -> None:
        """Note the batch."""
        arrays = (self.token, self.position, self.sequence, self.has_logits)
        self.ops.append(("decode", tuple(array[:count].copy() for array in arrays)))
        super().decode(count)

    def copy(self, source: int, target: int, count: int) -> None:
        """Note the copy."""
        self.ops.append(("copy", (source, target, count)))
        super().copy(source, target, count)

    def drop(self, sequence: int, start: int = 0) -> None:
        """Note what is dropped, unless a copy drops it."""
        if sys._getframe(1).f_code.co_name != "copy":
            self.ops.append(("drop", (sequence, start)))
        super().drop(sequence, start)

    def clear(self) -> None:
        """Note it."""
        self.ops.append(("clear", ()))
        super().clear()


def replay(decoder: Decoder, ops: Sequence[Op]) -> float:
    """Do it all again without choosing anything; return the seconds."""
    began = time.perf_counter()
    for name, args in ops:
        if name == "decode":
            count = len(args[0])
            for target, array in zip(
                (decoder.token, decoder.position, decoder.sequence, decoder.has_logits), args, strict=True
            ):
                target[:count] = array
            decoder.decode(count)
        else:
            getattr(decoder, name)(*args)
    return time.perf_counter() - began


def time_engine(
    student: LlamaStudent, requests: list[SampleRequest], settings: DecodeSettings
) -> tuple[float, int]:
    """Return seconds and tokens written."""
    began = time.perf_counter()
    results = [result for _, result in student.complete_many(requests, settings)]
    seconds = time.perf_counter() - began
    return seconds, sum(one.completion_tokens or 0 for one in results if isinstance(one, Completion))


def record_layout(
    path: Path, requests: list[SampleRequest], options: EngineOptions
) -> tuple[Layout, list[Op]]:
    """Run once, as a warm-up too; return what the engine chose and all that it did."""
    Recorder.ops = []
    original, llamacpp.Decoder = llamacpp.Decoder, Recorder  # type: ignore[misc]
    try:
        student = LlamaStudent(path, options=options)
        list(student.complete_many(requests, DRAWN))
        layout = Layout(**student.describe()["chosen"])
        student.close()
    finally:
        llamacpp.Decoder = original  # type: ignore[misc]
    return layout, Recorder.ops


def compare(path: Path, requests: list[SampleRequest], options: EngineOptions, rounds: int) -> Row:
    """Return tokens per second of (a) to (d) on the same requests."""
    layout, ops = record_layout(path, requests, options)
    engine, limit, tokens = [], [], 0
    for _ in range(rounds):
        student = LlamaStudent(path, chosen=layout.as_dict())
        seconds, tokens = time_engine(student, requests, DRAWN)
        student.close()
        engine.append(seconds)
        model = Model(path)
        decoder = Decoder(model, layout)
        limit.append(replay(decoder, ops))
        decoder.close()
        model.close()
    row: Row = {
        "layout": layout.as_dict(),
        "engine_tokens_per_s": tokens / statistics.median(engine),
        "limit_tokens_per_s": tokens / statistics.median(limit),
        "high_level_tokens_per_s": time_high_level(path, requests),
        "server_tokens_per_s": time_server(path, requests),
    }
    row["share_of_limit"] = statistics.median(limit) / statistics.median(engine)
    for name in ("high_level", "server"):
        other = row[f"{name}_tokens_per_s"]
        row[f"times_{name}"] = row["engine_tokens_per_s"] / other if other else None
    return row


def time_high_level(path: Path, requests: list[SampleRequest], samples: int = 12) -> float:
    """Return the tokens per second of llama-cpp-python's own API, on the first requests."""
    import llama_cpp

    longest = max(len(str(request.prompt)) for request in requests) + DRAWN.max_tokens + 8
    llama = llama_cpp.Llama(
        str(path), n_ctx=longest, n_threads=physical_cores(), n_threads_batch=physical_cores(), verbose=False
    )
    began = time.perf_counter()
    tokens = 0
    for request in requests[:samples]:
        reply = llama.create_completion(
            str(request.prompt), max_tokens=DRAWN.max_tokens, temperature=DRAWN.temperature, top_k=DRAWN.top_k,
            top_p=DRAWN.top_p, min_p=0.0, repeat_penalty=1.0, seed=request.seed,
        )  # fmt: skip
        tokens += reply["usage"]["completion_tokens"]
    seconds = time.perf_counter() - began
    llama.close()
    return tokens / seconds


def time_server(path: Path, requests: list[SampleRequest]) -> float | None:
    """Return the tokens per second of llama-server at its best number of slots; None without one."""
    binary = os.environ.get("LLAMA_SERVER")
    if not binary:
        return None
    return max(time_server_with(binary, path, requests, slots) for slots in (4, 8, 16))


def time_server_with(binary: str, path: Path, requests: list[SampleRequest], slots: int) -> float:
    with running_server(binary, path, requests, slots) as url:
        student = EndpointStudent("bench", url, prompt_style="completion", concurrency=slots)
        list(student.complete_many(requests[:1], DRAWN))
        part = requests[: max(2 * slots, 24)]
        began = time.perf_counter()
        results = [result for _, result in student.complete_many(part, DRAWN)]
        seconds = time.perf_counter() - began
        student.close()
    # With `n` the server does not tell the paths' tokens apart; a random model ends none of them early.
    return DRAWN.max_tokens * sum(isinstance(one, Completion) for one in results) / seconds


@contextmanager
def running_server(binary: str, path: Path, requests: list[SampleRequest], slots: int) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    longest = max(len(str(request.prompt)) for request in requests) + DRAWN.max_tokens + 8
    command = [binary, "-m", str(path), "-np", str(slots), "-c", str(slots * longest), "--kv-unified", "-cb",
               "-t", str(physical_cores()), "-fa", "on", "--port", str(port), "--no-webui"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until_ready(port)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def wait_until_ready(port: int) -> None:
    import httpx

    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2.0, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit("llama-server did not become ready")


def measure_wall(questions: int, options: EngineOptions) -> Row:
    """The quickstart's student: wall time of the whole stage against the time inside llama_decode."""
    from lema_local.prompts import load_cot_prompt
    from lema_local.quickstart.problems import generate_questions
    from lema_local.stages.sample import SampleSettings, sample_paths

    inside = 0.0
    decode = Decoder.decode

    def timed(self: Decoder, count: int) -> None:
        nonlocal inside
        began = time.perf_counter()
        decode(self, count)
        inside += time.perf_counter() - began

    asked = [Question.model_validate(one) for one in generate_questions("train", questions)]
    settings = SampleSettings(samples_per_question=8, temperature=0.8, max_tokens=160)
    student = LlamaStudent(quickstart_student(), options=options)
    Decoder.decode = timed  # type: ignore[method-assign]
    try:
        began = time.perf_counter()
        tokens = 0
        for path in sample_paths(asked, student, load_cot_prompt("cot-zero-shot"), settings):
            tokens += path.completion_tokens or 0
        wall = time.perf_counter() - began
    finally:
        Decoder.decode = decode  # type: ignore[method-assign]
    layout = student.describe()["chosen"]
    student.close()
    return {"layout": layout, "wall_s": wall, "decode_s": inside, "wall_over_decode": wall / inside,
            "tokens_per_s": tokens / wall}  # fmt: skip


def quickstart_student() -> Path:
    from importlib.resources import files

    return Path(str(files("lema_local.quickstart") / "student.gguf"))


def measure_memory(questions: int, options: EngineOptions) -> Row:
    """Memory that grows with the number of waiting questions, weights and KV cells aside."""
    from lema_local.stages.sample import SampleSettings, sample_paths

    class Plain:
        stop: Sequence[str] = ()

        def render(self, question: Question, style: object) -> str:
            return question.question

    def asked(count: int) -> list[Question]:
        text = "How many apples are in basket number {}, if each of the baskets before it holds two more than the last?"
        return [
            Question(id=f"q{n}", dataset="own", split="train", question=text.format(n), gold_answer=str(n))
            for n in range(count)
        ]

    def draw(waiting: list[Question]) -> None:
        paths = sample_paths(waiting, student, Plain(), SampleSettings(max_tokens=16))
        for _ in range(200):
            next(paths)
        paths.close()  # type: ignore[attr-defined]

    student = LlamaStudent(quickstart_student(), options=options)
    draw(asked(300))
    gc.collect()
    before = psutil.Process().memory_info().rss
    draw(asked(questions))
    grown = psutil.Process().memory_info().rss - before
    student.close()
    return {"questions": questions, "grown_mb": grown / 1e6}


def cases(options: EngineOptions, rounds: int, is_quick: bool) -> dict[str, Callable[[], Row]]:
    many = make_requests(8 if is_quick else 32, 4, 0, 160)
    shots = make_requests(4 if is_quick else 16, 8, 600, 100)
    return {
        "questions": lambda: compare(qwen_model(), many, options, rounds),
        "prefix": lambda: compare(qwen_model(), shots, options, rounds),
        "wall": lambda: measure_wall(200 if is_quick else 2000, options),
        "memory": lambda: measure_memory(100_000, options),
    }


GOALS = (
    ("questions", "share_of_limit", ">=", 0.93, "32 questions x 4: share of (d)"),
    ("questions", "times_high_level", ">=", 1.9, "same, against (b)"),
    ("questions", "times_server", ">=", 1.7, "same, against (c)"),
    ("prefix", "times_high_level", ">=", 2.5, "prefix 600 + 100, 16 questions x 8: against (b)"),
    (
        "wall",
        "wall_over_decode",
        "<=",
        1.15,
        "2,000 questions x 8, quickstart's student: wall / llama_decode",
    ),
    ("memory", "grown_mb", "<", 200, "100,000 questions waiting: MB beyond weights and KV"),
)


def print_table(results: dict[str, Row]) -> None:
    for case, figure, sign, goal, title in GOALS:
        value = results.get(case, {}).get(figure)
        shown = "-" if value is None else f"{value:.3g}"
        is_met = value is not None and (value >= goal if sign == ">=" else value <= goal)
        print(f"{title:66s} {shown:>8s}   goal {sign} {goal:<6g} {'met' if is_met else ''}")
    for case, row in results.items():
        speeds = {name: round(value, 1) for name, value in row.items() if name.endswith("per_s") and value}
        layout = row.get("layout")
        chosen = f"slots {layout['slots']}, unified {layout['is_unified']}" if layout else ""
        print(f"{case}: {speeds} {chosen}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=["questions", "prefix", "wall", "memory"])
    parser.add_argument("--quick", action="store_true", help="a quarter of the work")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--unified", choices=["yes", "no"])
    args = parser.parse_args()
    library()
    options = EngineOptions(
        slots=args.slots, is_unified=None if args.unified is None else args.unified == "yes"
    )
    load = os.getloadavg()[0]
    every = cases(options, args.rounds, args.quick)
    results = {name: every[name]() for name in (args.case or every)}
    print_table(results)
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M")
    facts = {
        "at": stamp,
        "load_before": load,
        "cores": physical_cores(),
        "quick": args.quick,
        "results": results,
    }
    (RESULTS / f"sample-{stamp}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
