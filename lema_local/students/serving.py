"""What lets other programs run an exported student: an Ollama Modelfile, and a llama-server command line.

Reads   the base's GGUF (chat template, end tokens, context)
Writes  Modelfile, llama-server.sh, chat_template.jinja, a prefix before each name

A student answers as it was trained only if it is asked as it was trained: the prompt around the question, the chat
template and the end tokens are in both files.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from lema_local.errors import PromptError
from lema_local.runs import write_text
from lema_local.students.base import Message, PromptStyle
from lema_local.students.chat import render_chat
from lema_local.students.model import Model

QUESTION, SYSTEM, ANSWER, AGAIN = "LEMA-QUESTION", "LEMA-SYSTEM", "LEMA-ANSWER", "LEMA-AGAIN"
"""Stand for texts while a template is taken apart."""


@dataclass(frozen=True, slots=True)
class ServedPrompt:
    """How a question is put to the student."""

    before: str = ""
    """Stands before the question."""
    after: str = ""
    """Stands behind it."""
    style: PromptStyle = "completion"
    """`chat`: the user says this in the GGUF's chat template."""


@dataclass(frozen=True, slots=True)
class _Facts:
    template: str | None
    start: str
    """The start token's text where llama.cpp and Ollama put it in front by themselves."""
    end: str
    ends: tuple[str, ...]
    context: int


def write_serving_files(
    folder: Path, base: Path, adapter: Path | None, prompt: ServedPrompt, *, name: str, prefix: str = ""
) -> list[Path]:
    """Write the files for a base with an adapter, or for a merged model, and return their paths.

    Args:
        folder: Where; beside the adapter or the merged model.
        base: The GGUF to be run.
        adapter: A GGUF LoRA adapter over it; None: the GGUF is the whole student.
        prompt: How it was trained to be asked.
        name: What Ollama calls it.
        prefix: Stands before the names of the files.

    Raises:
        BackendUnavailable: If the base cannot be read.
        PromptError: If `chat` is asked for and the template cannot be rendered.
    """
    facts = _read_facts(base)
    template, modelfile, script = (
        folder / f"{prefix}{file}" for file in ("chat_template.jinja", "Modelfile", "llama-server.sh")
    )
    write_text(template, _chat_template(facts, prompt))
    write_text(modelfile, _modelfile(modelfile, base, adapter, facts, prompt, name))
    write_text(script, _server_script(folder, base, adapter, facts, template))
    script.chmod(0o755)
    return [template, modelfile, script]


def _read_facts(base: Path) -> _Facts:
    model = Model(base, is_vocabulary_only=True)
    try:
        ends = tuple(model.token_text(token) for token in range(model.vocabulary_size) if model.is_end(token))
        adds_start = len(model.tokenize("", add_special=True, parse_special=False)) > 0
        return _Facts(
            template=model.facts.chat_template,
            start=model.start_text if adds_start else "",
            end=model.end_text,
            ends=tuple(dict.fromkeys(text for text in ends if text)),
            context=model.facts.trained_context,
        )
    finally:
        model.close()


def _chat_template(facts: _Facts, prompt: ServedPrompt) -> str:
    """Return a template that puts the last message as the student was trained to be asked."""
    before, after = (json.dumps(text, ensure_ascii=False) for text in (prompt.before, prompt.after))
    if prompt.style == "completion" or not facts.template:
        return f"{{{{ {before} }}}}{{{{ messages[-1]['content'] }}}}{{{{ {after} }}}}"
    if not (prompt.before or prompt.after):
        return facts.template
    asked = f"{before} + messages[-1]['content'] + {after}"
    return (
        f"{{%- set messages = messages[:-1] + [{{'role': 'user', 'content': {asked}}}] -%}}\n{facts.template}"
    )


def _modelfile(
    path: Path, base: Path, adapter: Path | None, facts: _Facts, prompt: ServedPrompt, name: str
) -> str:
    folder = path.parent
    lines = [f"# ollama create {name} -f {path.name}", f"# ollama run {name}", f"FROM {_shown(base, folder)}"]
    lines += [f"ADAPTER {_shown(adapter, folder)}"] if adapter else []
    lines += [f'TEMPLATE """{_go_template(facts, prompt)}"""']
    lines += [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in facts.ends]
    return "\n".join([*lines, "PARAMETER temperature 0", f"PARAMETER num_ctx {facts.context}"]) + "\n"


def _go_template(facts: _Facts, prompt: ServedPrompt) -> str:
    """Return the prompt in Ollama's template language."""
    said = prompt.before + QUESTION + prompt.after
    if prompt.style == "completion" or not facts.template:
        return _fill(said)
    plain = _render(facts, {"role": "user", "content": said})
    ending = _answer_ending(facts)
    try:
        with_system = _render(facts, {"role": "system", "content": SYSTEM}, {"role": "user", "content": said})
    except PromptError:  # there are models without system messages
        return _fill(plain) + "{{ .Response }}" + ending
    return (
        f"{{{{ if .System }}}}{_fill(with_system)}{{{{ else }}}}{_fill(plain)}{{{{ end }}}}"
        f"{{{{ .Response }}}}{ending}"
    )


def _render(facts: _Facts, *messages: Message) -> str:
    assert facts.template is not None
    text = render_chat(facts.template, messages, start_text=facts.start, end_text=facts.end)
    # Ollama puts the start token in front by itself.
    return text.removeprefix(facts.start) if facts.start else text


def _answer_ending(facts: _Facts) -> str:
    """Return the end token that the template writes behind an answer."""
    try:
        text = _render(
            facts,
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": AGAIN},
        )
    except PromptError:
        return facts.end
    behind = text.partition(ANSWER)[2].lstrip()
    return next((end for end in sorted(facts.ends, key=len, reverse=True) if behind.startswith(end)), "")


def _fill(text: str) -> str:
    escaped = text.replace("{{", '{{ "{{" }}')
    return escaped.replace(QUESTION, "{{ .Prompt }}").replace(SYSTEM, "{{ .System }}")


def _server_script(folder: Path, base: Path, adapter: Path | None, facts: _Facts, template: Path) -> str:
    words = ["llama-server", "--model", _shown(base, folder)]
    words += ["--lora", _shown(adapter, folder)] if adapter else []
    words += ["--jinja", "--chat-template-file", _shown(template, folder), "--ctx-size", str(facts.context)]
    words += ["--temp", "0", "--host", "127.0.0.1", "--port", "8080"]
    ends = ", ".join(facts.ends)
    return (
        "#!/bin/sh\n# The student at http://127.0.0.1:8080 (chat in a browser) and /v1/chat/completions.\n"
        f"# It ends an answer by itself at: {ends}\n"
        f'cd "$(dirname "$0")" || exit 1\nexec {shlex.join(words)} "$@"\n'
    )


def _shown(path: Path, folder: Path) -> str:
    """Return a path as seen from the folder: with `./` where it lies in it, absolute elsewhere."""
    path, folder = path.resolve(), folder.resolve()
    return f"./{os.path.relpath(path, folder)}" if path.is_relative_to(folder) else str(path)
