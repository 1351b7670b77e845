"""What Ollama and llama-server are given: the prompt of the training, the template, the end tokens, the paths."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_gguf import CHAT_TEMPLATE, TinyModel, write_adapter, write_model

from lema_local.students.chat import render_chat
from lema_local.students.serving import ServedPrompt, write_serving_files

PROMPT = ServedPrompt('Solve "this":\nQuestion: ', "\nAnswer: {{ step by step }}\n")
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATE


def _ask(template: str) -> str:
    return render_chat(template, [{"role": "user", "content": "2+2?"}], start_text="", end_text="")


def _go(modelfile: str, prompt: str, system: str = "") -> str:
    """Fill Ollama's template as it does, as far as these files use its language."""
    template = modelfile.split('"""')[1]
    template = re.sub(
        r"(?s)\{\{ if .System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}", r"\1" if system else r"\2", template
    )
    for name, value in (("{{ .Prompt }}", prompt), ("{{ .System }}", system), ('{{ "{{" }}', "{{")):
        template = template.replace(name, value)
    return template.partition("{{ .Response }}")[0]


def test_completion_student_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    base, adapter = write_model(tmp_path / "base.gguf"), write_adapter(tmp_path / "adapter.gguf")
    template, modelfile, script = write_serving_files(tmp_path, base, adapter, PROMPT, name="mine")
    asked = f"{PROMPT.before}2+2?{PROMPT.after}"
    assert _ask(template.read_text()) == asked
    text = modelfile.read_text()
    assert _go(text, "2+2?") == asked
    assert "\nFROM ./base.gguf\nADAPTER ./adapter.gguf\n" in text
    assert 'PARAMETER stop "<|endoftext|>"' in text
    assert "PARAMETER num_ctx 512" in text
    assert "<|endoftext|>" in script.read_text()


def test_chat_student_is_asked_in_its_template(tmp_path: Path) -> None:
    base = write_model(tmp_path / "chat.gguf", TinyModel(chat_template=CHAT_TEMPLATE))
    prompt = ServedPrompt(PROMPT.before, PROMPT.after, "chat")
    template, modelfile, _ = write_serving_files(tmp_path, base, None, prompt, name="mine", prefix="x.")
    asked = f"<|im_start|>user\n{PROMPT.before}2+2?{PROMPT.after}<|im_end|>\n<|im_start|>assistant\n"
    assert (template.name, modelfile.name) == ("x.chat_template.jinja", "x.Modelfile")
    assert _ask(template.read_text()) == asked
    text = modelfile.read_text()
    assert _go(text, "2+2?") == asked
    assert _go(text, "2+2?", "Be brief.") == f"<|im_start|>system\nBe brief.<|im_end|>\n{asked}"
    assert "{{ .Response }}<|im_end|>" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "ADAPTER" not in text


def test_template_without_system_messages_is_left_without(tmp_path: Path) -> None:
    base = write_model(tmp_path / "strict.gguf", TinyModel(chat_template=STRICT))
    _, modelfile, _ = write_serving_files(tmp_path, base, None, ServedPrompt(style="chat"), name="mine")
    assert ".System" not in modelfile.read_text()
    assert _go(modelfile.read_text(), "2+2?") == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_command_line_survives_odd_paths(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "my 'run'", tmp_path / "else where"
    for one in (folder, elsewhere, tmp_path / "bin"):
        one.mkdir()
    base, adapter = write_model(elsewhere / "base.gguf"), write_adapter(folder / "adapter.gguf")
    script = write_serving_files(folder, base, adapter, PROMPT, name="mine")[2]
    shown = tmp_path / "bin" / "llama-server"  # stands for the program: shows what it is given
    shown.write_text('#!/bin/sh\nfor one in "$@"; do echo "$one"; done\n')
    shown.chmod(0o755)
    done = subprocess.run(
        [script, "--threads", "2"], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
    )  # fmt: skip
    words = done.stdout.splitlines()
    assert words[words.index("--model") + 1] == str(base.resolve())
    assert words[words.index("--lora") + 1] == "./adapter.gguf"
    assert words[words.index("--chat-template-file") + 1] == "./chat_template.jinja"
    assert words[-2:] == ["--threads", "2"]
