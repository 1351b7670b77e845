"""The request for one of several replies to a question: a further rationale, a new question, a vote."""

from __future__ import annotations

from typing import Protocol

from lema_local.records import Question
from lema_local.students.base import Prompt, PromptStyle
from lema_local.teachers.base import TeacherRequest
from lema_local.teachers.settings import CallBlock, TeacherSettings


class QuestionPrompt(Protocol):
    """What turns a question into messages: `lema_local.prompts.CotPrompt`."""

    def render(self, question: Question, style: PromptStyle) -> Prompt:
        """Return chat messages where `style` is `chat`."""


def draw_request(
    question: Question,
    attempt: int,
    prompt: QuestionPrompt,
    settings: CallBlock,
    teacher: TeacherSettings,
    *,
    temperature: float | None,
) -> TeacherRequest:
    """Return the request for a reply to a question.

    Args:
        question: What is asked.
        attempt: 0-based: which of the replies.
        prompt: Makes the messages.
        settings: The stage's.
        teacher: What is set for this teacher alone.
        temperature: Of the stage; None: the provider's default.
    """
    messages = prompt.render(question, "chat")
    assert not isinstance(messages, str)
    request = TeacherRequest(
        messages=messages,
        temperature=temperature,
        top_p=settings.top_p,
        attempt=attempt,
        max_tokens=settings.max_tokens,
    )
    # Every reply is drawn: a temperature set for corrections does not belong here.
    return teacher.shape(request, is_first=False)
