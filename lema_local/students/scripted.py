"""A student that says what it was told to: for unit tests of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lema_local.students.base import Completion, DecodeSettings, PromptStyle, Refusal, SampleRequest

Script = Mapping[str, Sequence[str]] | Callable[[SampleRequest], str | Completion | Refusal]


class ScriptedModel:
    """Answers from a script, in the order of the requests.

    Args:
        script: Texts by question id (sample k gets text k, from the start again where they run out), or a
            function of the request.
        name: What stands in its paths.
        prompt_style: What it wants its prompts to be.
    """

    def __init__(
        self, script: Script, *, name: str = "scripted", prompt_style: PromptStyle = "completion"
    ) -> None:
        self._script = script
        self.name = name
        self.prompt_style: PromptStyle = prompt_style
        self.requests: list[SampleRequest] = []
        """All that it was asked, for tests to look at."""

    def complete_many(
        self, requests: Iterable[SampleRequest], settings: DecodeSettings, *, is_exact: bool = False
    ) -> Iterator[tuple[SampleRequest, Completion | Refusal]]:
        """Yield each request with its scripted answer; see `Student.complete_many`."""
        for request in requests:
            self.requests.append(request)
            answer = self._answer(request)
            yield request, _cut(answer, settings.stop) if isinstance(answer, str) else answer

    def _answer(self, request: SampleRequest) -> str | Completion | Refusal:
        if callable(self._script):
            return self._script(request)
        texts = self._script[request.question_id]
        return texts[request.sample_index % len(texts)]

    def describe(self) -> dict[str, Any]:
        """Return what it is."""
        return {"kind": "scripted", "chosen": {}}

    def close(self) -> None:
        """Nothing to give back."""


def _cut(text: str, stop: Sequence[str]) -> Completion:
    place = min((found for one in stop if one and (found := text.find(one)) >= 0), default=len(text))
    return Completion(text[:place], "stop" if place < len(text) else "end", None, None)
