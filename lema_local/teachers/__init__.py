"""Teachers: whoever writes corrections, with the journal, the budget and the scheduler in front of them.

`open_teacher` turns a name into a teacher, `open_desk` into one with everything around it. `litellm` is imported
only here, and only when a teacher needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from lema_local.errors import InputError
from lema_local.keys import check_url
from lema_local.teachers.base import Desk, Teacher, TeacherRequest

if TYPE_CHECKING:
    from lema_local.records import Question
    from lema_local.students.base import Prompt, PromptStyle
    from lema_local.teachers.desk import TeacherDesk
    from lema_local.teachers.journal import Journal
    from lema_local.teachers.scheduler import DeskSettings

IN_PROCESS = "llamacpp/"
"""Prefix of a GGUF file that answers in this process."""
ENDPOINT_KEY = "LEMA_TEACHER_KEY"
"""The key for `--teacher-url`."""
OLLAMA_URL = "http://127.0.0.1:11434"
"""Where Ollama listens unless `OLLAMA_API_BASE` says otherwise."""


def open_teacher(
    name: str,
    *,
    url: str | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    options: dict[str, Any] | None = None,
    slots: int = 8,
    gpu_layers: int = 0,
    needs_key: bool = True,
) -> Teacher:
    """Return a teacher by name.

    Args:
        name: `reference`, `llamacpp/PATH.gguf` (in this process), or a LiteLLM model name.
        url: An OpenAI-compatible endpoint.
        price_in: Dollars per million prompt tokens; None with `price_out`: LiteLLM's price, nothing for what runs
            locally.
        price_out: Dollars per million reply tokens.
        options: Further arguments of the call, such as `reasoning_effort`.
        slots: For `llamacpp/`: replies decoded at once.
        gpu_layers: For `llamacpp/`: layers on the GPU; -1: all.
        needs_key: False: a provider's key may be missing, for nothing will be asked.

    Raises:
        InputError: If flags contradict each other.
        BackendUnavailable: No such provider, no key, nobody listens at `url`.
    """
    from lema_local.teachers.prices import Price

    if (price_in is None) != (price_out is None):
        raise InputError(
            "a price needs both parts", hint="give --price-in and --price-out, 0 where a part is free"
        )
    if name == "reference":
        if url is not None:
            raise InputError("the reference teacher is no endpoint", hint="leave --teacher-url out")
        from lema_local.teachers.reference import ReferenceTeacher

        return ReferenceTeacher()
    if name.startswith(IN_PROCESS):
        from lema_local.teachers.student_teacher import open_gguf_teacher

        if url is not None:
            raise InputError(f"{name} runs in this process", hint="leave --teacher-url out")
        return open_gguf_teacher(name, name.removeprefix(IN_PROCESS), slots=slots, gpu_layers=gpu_layers)
    from lema_local.teachers.litellm_teacher import LiteLLMTeacher

    if url is not None and not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is no URL of an endpoint", hint="such as http://127.0.0.1:8080/v1")
    if url is not None:
        check_url(url, ENDPOINT_KEY)
    price = None if price_in is None or price_out is None else Price.per_million(price_in, price_out)
    return LiteLLMTeacher(name, url=url, price=price, options=options, needs_key=needs_key)


def needs_no_endpoint(name: str) -> bool:
    """Return whether a teacher answers within this process."""
    return name == "reference" or name.startswith(IN_PROCESS)


def endpoint_of(name: str, url: str | None) -> str | None:
    """Return where a teacher on this machine or network is asked; None for one in this process or a provider's."""
    if url is None and name.startswith(("ollama/", "ollama_chat/")):
        return os.environ.get("OLLAMA_API_BASE", OLLAMA_URL)
    return url


@contextmanager
def open_desk(
    teacher: Teacher,
    journal: Journal,
    settings: DeskSettings,
    *,
    scope: str,
    within: str | None = None,
    max_usd: float | None = None,
    max_calls: int | None = None,
    collect: Callable[[str, TeacherRequest], None] | None = None,
) -> Iterator[TeacherDesk]:
    """Lend a desk whose budget counts what was spent before; closed at the end.

    Args:
        teacher: Who is asked.
        journal: Where replies are kept.
        settings: How calls are made.
        scope: What the calls are made for: a stage's folder, a file.
        within: What the caps hold over: the run's folder, all its stages and rounds; None: the scope.
        max_usd: Dollars in all; None: no cap.
        max_calls: Requests in all; None: no cap.
        collect: Gets each request that the journal has no reply to, with its key, instead of its being sent.
    """
    from lema_local.teachers.budget import Budget
    from lema_local.teachers.desk import TeacherDesk

    before = journal.spending(within or scope)
    budget = Budget(max_usd, max_calls, spent_usd=before.spent_usd, calls=before.calls)
    with TeacherDesk(teacher, journal, budget, settings, scope=scope, collect=collect) as desk:
        yield desk


class MistakePrompt(Protocol):
    """What turns a mistake into messages; a `CorrectionPrompt` does."""

    def render(
        self,
        question: Question,
        original_steps: Sequence[str],
        style: PromptStyle,
        *,
        shows_gold: bool = False,
        located_step: int | None = None,
        is_json: bool = False,
    ) -> Prompt:
        """Return chat messages where `style` is `chat`."""

    def render_locating(
        self,
        question: Question,
        original_steps: Sequence[str],
        style: PromptStyle,
        *,
        shows_gold: bool = False,
    ) -> Prompt:
        """Return the messages that ask for the incorrect step alone."""


class _ReferencePrompt:
    """The reference teacher's request: the question with its gold rationale and answer as data."""

    def render(self, question: Question, original_steps: Sequence[str], *_: object, **__: object) -> Prompt:
        """Return the messages; this teacher is always shown the gold rationale."""
        from lema_local.teachers.reference import reference_request

        return reference_request(question, original_steps)

    render_locating = render


def prompt_for(teacher: Teacher | Desk, prompt: MistakePrompt) -> MistakePrompt:
    """Return what asks this teacher for a correction: the prompt given, or the reference teacher's own."""
    return _ReferencePrompt() if teacher.reads_gold else prompt
