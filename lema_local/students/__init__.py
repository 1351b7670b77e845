"""Students: the llama.cpp engine, any OpenAI-compatible endpoint, and a scripted one for tests.

`open_student` is the one way in. `llama_cpp` is imported in this folder only, and only when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lema_local.students.base import EngineOptions, PromptStyle, Student


def open_student(
    spec: str,
    *,
    url: str | None = None,
    adapter: Path | Sequence[tuple[Path, float]] | None = None,
    prompt_style: PromptStyle | Literal["auto"] = "auto",
    options: EngineOptions | None = None,
    chosen: Mapping[str, Any] | None = None,
    on_chosen: Callable[[dict[str, Any]], None] | None = None,
    name: str | None = None,
) -> Student:
    """Return a student that is ready to be sampled.

    Args:
        spec: A GGUF file, or `hf:OWNER/REPO/FILE.gguf`; with `url` the model's name at the endpoint.
        url: Base URL of an OpenAI-compatible endpoint (`http://127.0.0.1:8080/v1`).
        adapter: A GGUF LoRA adapter, or several with their scales.
        prompt_style: `auto`: chat where the model has a template.
        options: What is not to be chosen by the engine; with `url` only `slots` counts: requests in flight.
        chosen: What an earlier start chose, to be used again on resume.
        on_chosen: Called once with what the engine chose, before anything is decoded: to be written down.
        name: What its paths call it; None: the files' names. An endpoint's is always `spec`.

    Raises:
        BackendUnavailable: If the file, the adapter or the endpoint cannot be used.
    """
    if url is not None:
        from lema_local.students.endpoint import EndpointStudent

        return EndpointStudent(
            spec, url, prompt_style=prompt_style, concurrency=options.slots if options else None
        )
    from lema_local.students.llamacpp import LlamaStudent

    adapters = ((adapter, 1.0),) if isinstance(adapter, Path) else tuple(adapter or ())
    return LlamaStudent(
        resolve_model_file(spec),
        adapters=adapters,
        prompt_style=prompt_style,
        options=options,
        chosen=chosen,
        on_chosen=on_chosen,
        name=name,
    )


@contextmanager
def lend_counter(spec: str) -> Iterator[Callable[[str], int]]:
    """Lend what counts the trained tokens of a completion by a GGUF's own tokenizer, the stop token among them.

    Only the vocabulary is loaded.

    Raises:
        BackendUnavailable: If there is no such file.
    """
    from lema_local.students.model import Model

    model = Model(resolve_model_file(spec), is_vocabulary_only=True)
    try:
        yield lambda text: len(model.tokenize(text, add_special=False, parse_special=False)) + 1
    finally:
        model.close()


def resolve_model_file(spec: str) -> Path:
    """Return the path of a student's GGUF file, fetched once where it is `hf:OWNER/REPO/FILE.gguf`.

    Raises:
        BackendUnavailable: If there is no such file, or the hub cannot be reached.
    """
    if spec.startswith("hf:"):
        from lema_local.students.hub import fetch_gguf

        return fetch_gguf(spec)
    path = Path(spec).expanduser()
    if not path.is_file():
        from lema_local.errors import BackendUnavailable

        raise BackendUnavailable(
            f"there is no file {spec}", hint="name a GGUF file, or hf:OWNER/REPO/FILE.gguf"
        )
    return path
