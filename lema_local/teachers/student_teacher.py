"""A teacher in this process: a GGUF file on the students' engine, behind the same protocol as any other teacher.

Calls come one by one from the desk's event loop; the engine wants many at once. A thread of its own gathers what
is waiting into one run of the engine and feeds it what arrives while that goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lema_local.errors import BackendError
from lema_local.students.base import (
    Completion,
    DecodeSettings,
    EngineOptions,
    Message,
    Prompt,
    PromptStyle,
    Refusal,
    SampleRequest,
    Student,
)
from lema_local.teachers.base import FinishReason, RawReply, RequestRefused, TeacherRequest
from lema_local.teachers.reasoning import split_reasoning

_ARRIVAL_S = 0.05
"""How long a running engine waits for the next request: the desk sends one as soon as another is answered."""
_DEFAULT_TEMPERATURE = 0.7
_NEXT_QUESTION = "\nQuestion:"
"""Where a model without a chat template goes on to a question of its own."""


@dataclass(frozen=True, slots=True)
class _Call:
    request: TeacherRequest
    future: asyncio.Future[RawReply]
    loop: asyncio.AbstractEventLoop
    asked_at: float


class StudentTeacher:
    """Any student as a teacher.

    Args:
        load: Returns the student that answers; called in the teacher's own thread when the first request comes, and
            not at all where the journal holds every reply. Closed with the teacher.
        name: As asked for on the command line.
        identity: What the file is, for the journal's key.
    """

    reads_gold = False
    can_write_json = False

    def __init__(self, load: Callable[[], Student], name: str, identity: str) -> None:
        self.name = name
        self.identity = identity
        self._load = load
        self._student: Student | None = None
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._held: _Call | None = None
        self._numbers = itertools.count()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="llamacpp-teacher", daemon=True)
        self._thread.start()

    def worst_case_usd(self, request: TeacherRequest) -> float:
        """Nothing: it runs here."""
        return 0.0

    async def reply(self, request: TeacherRequest) -> RawReply:
        """Ask once; see `Teacher`."""
        if not self._thread.is_alive():
            raise BackendError(f"{self.name}: the engine has ended")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RawReply] = loop.create_future()
        self._calls.put(_Call(request, future, loop, time.monotonic()))
        return await future

    async def close(self) -> None:
        """End the thread, and give the model's memory back."""
        self._is_closing = True
        self._calls.put(None)
        await asyncio.to_thread(self._thread.join)
        if self._student is not None:
            self._student.close()

    # -- The engine's thread

    def _work(self) -> None:
        while (first := self._take_first()) is not None:
            self._answer_run(first)

    def _answer_run(self, first: _Call) -> None:
        """Run the engine over what is waiting; whatever happens, each call gets its answer or an error."""
        running: dict[str, _Call] = {}
        why = BackendError(f"{self.name}: the engine ended before it had answered")
        try:
            if self._student is None:
                running["first"] = first
                self._student = self._load()
                del running["first"]
            student = self._student
            settings = decode_settings(first.request, student)
            for sample, result in student.complete_many(self._gather(first, running, student), settings):
                call = running.pop(sample.question_id)
                _deliver(call, _read(call, result, self.name))
        except BackendError as err:
            why = err
        finally:
            for call in running.values():
                _deliver(call, why)

    def _take_first(self) -> _Call | None:
        held, self._held = self._held, None
        return held if held is not None else self._calls.get()

    def _gather(self, first: _Call, running: dict[str, _Call], student: Student) -> Iterator[SampleRequest]:
        """Yield what is waiting, and what arrives in time, as long as it is to be decoded alike."""
        settings = decode_settings(first.request, student)
        call: _Call | None = first
        while call is not None and not self._is_closing:
            if decode_settings(call.request, student) != settings:
                self._held = call
                return
            number = str(next(self._numbers))
            running[number] = call
            yield _to_sample(number, call.request, student.prompt_style)
            call = self._take_arrival()

    def _take_arrival(self) -> _Call | None:
        try:
            call = self._calls.get(timeout=_ARRIVAL_S)
        except queue.Empty:
            return None
        if call is None:  # the end: for the outer loop to see
            self._calls.put(None)
        return call


def _to_sample(number: str, request: TeacherRequest, style: PromptStyle) -> SampleRequest:
    prompt: Prompt = join_messages(request.messages) if style == "completion" else request.messages
    asked = f"{request.messages}{request.seed}{request.attempt}".encode()
    seed = (
        request.seed if request.seed is not None else int.from_bytes(hashlib.sha256(asked).digest()[:4]) >> 1
    )
    return SampleRequest(number, request.attempt, prompt, seed)


def decode_settings(request: TeacherRequest, student: Student) -> DecodeSettings:
    """Return how a request is decoded. Only temperature and top_p cut the choice of tokens, as at a provider."""
    stop = request.stop or ((_NEXT_QUESTION,) if student.prompt_style == "completion" else ())
    return DecodeSettings(
        temperature=_DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
        top_k=0,
        top_p=1.0 if request.top_p is None else request.top_p,
        max_tokens=request.max_tokens,
        stop=stop,
    )


def join_messages(messages: tuple[Message, ...]) -> str:
    """Return chat messages as one text to be completed, for a model without a chat template."""
    texts = [
        f" {message['content']}\n\n" if message["role"] == "assistant" else message["content"]
        for message in messages
    ]
    return "".join(texts)


def _read(call: _Call, result: Completion | Refusal, name: str) -> RawReply | BackendError:
    if isinstance(result, Refusal):
        return RequestRefused(result.reason, is_only_this=True)
    finish: FinishReason = "length" if result.stop_reason == "length" else "stop"
    text, reasoning = split_reasoning(result.text)
    return RawReply(
        text=text,
        reasoning=reasoning,
        model=name,
        finish_reason=finish,
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        cost_usd=0.0,
        latency_s=time.monotonic() - call.asked_at,
        body={"stop_reason": result.stop_reason},
    )


def _deliver(call: _Call, result: RawReply | BackendError) -> None:
    def settle() -> None:
        if call.future.done():  # nobody waits any more
            return
        if isinstance(result, BackendError):
            call.future.set_exception(result)
        else:
            call.future.set_result(result)

    call.loop.call_soon_threadsafe(settle)


def open_gguf_teacher(name: str, path: str, *, slots: int, gpu_layers: int) -> StudentTeacher:
    """Return the teacher that a GGUF file is.

    Raises:
        BackendUnavailable: If the file cannot be used.
    """
    from lema_local.students import open_student, resolve_model_file

    file = resolve_model_file(path)

    def load() -> Student:
        return open_student(str(file), options=EngineOptions(slots=slots, gpu_layers=gpu_layers))

    return StudentTeacher(load, name, f"sha256 {_hash(file)}")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
