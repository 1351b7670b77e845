"""The documentation is built from the code without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lema_local.training.base import TrainSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_command_is_in_the_reference(site: Path) -> None:
    from lema_local.cli import COMMANDS

    page = (site / "reference/commands/index.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f'<h2 id="lema-{name}">' not in page] == []


def test_every_field_is_in_the_reference_with_its_meaning(site: Path) -> None:
    page = (site / "reference/recipe/index.html").read_text(encoding="utf-8")
    for field in ("sample.temperature", "teacher.max_usd", "train.lora_rank", "questions.train.source"):
        assert f"<code>{field}</code>" in page
    assert "Never spend more in this run" in page


def test_every_record_is_in_the_reference(site: Path) -> None:
    page = (site / "reference/records/index.html").read_text(encoding="utf-8")
    for name in ("question", "reasoningpath", "correction", "trainingexample", "prediction", "scores"):
        assert f'<h2 id="{name}">' in page


# --- what the pages say is so ------------------------------------------------------------------------------------

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TYPED = re.compile(r"^(?:\$ )?(lema(?: .*)?)$|`(lema [^`]*)`", re.MULTILINE)


def typed_commands() -> Iterator[tuple[str, str]]:
    """Yield (page, command) of every `lema ...` that a page tells the reader to type."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block, inline in TYPED.findall(text):
            yield page.name, " ".join((block or inline).split())


def find_unknown(command: str) -> str | None:
    """Return what of a command does not exist: a word that is no command, a flag that it has not."""
    from lema_local.cli import lema

    words = command.partition("  #")[0].partition(" #")[0].split()
    here: click.Command = lema
    ctx = click.Context(lema)
    while isinstance(here, click.Group) and len(words) > 1 and re.fullmatch(r"[a-z][a-z|-]*", words[1]):
        names = words.pop(1).split("|")
        found = [here.get_command(ctx, name) for name in names]
        if None in found:
            return str(names)
        here = found[-1] or here
    known = {flag for param in here.params for flag in (*param.opts, *param.secondary_opts)}
    given = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
    return next((flag for flag in given if flag not in {*known, "--help"}), None)


def test_every_command_in_the_pages_exists_with_its_flags() -> None:
    commands = list(typed_commands())
    assert len(commands) > 60
    assert [(*one, why) for one in commands if (why := find_unknown(one[1]))] == []


SHAPES = {
    "Qwen2.5-0.5B": ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "Qwen2.5-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "Qwen2.5-3B": ("qwen2", 2048, 11008, 36, 16, 2, 151936, True),
    "Llama-2-7B": ("llama", 4096, 11008, 32, 32, 32, 32000, False),
    "Mistral-7B": ("mistral", 4096, 14336, 32, 32, 8, 32000, False),
    "Qwen2.5-7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "Llama-2-13B": ("llama", 5120, 13824, 40, 40, 40, 32000, False),
}
"""Of their config.json."""
SIZES = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "vocab_size", "tie_word_embeddings",
)  # fmt: skip


def estimate(model: str, memory: str) -> str:
    """Return a cell of the page's table."""
    from lema_local.errors import LemaError
    from lema_local.training.layout import plan_for_machine
    from lema_local.training.shapes import shape_of_config

    shape = shape_of_config(dict(zip(SIZES, SHAPES[model], strict=True)), model)
    try:
        plan = plan_for_machine(shape, TrainSettings.model_validate({"memory": memory, "max_length": 1024}))
    except LemaError:
        return "does not fit"
    total, layout = plan.estimate.total, plan.layout
    notes = ["re"] * layout.has_gradient_checkpointing + ["paged"] * (total > plan.budget)
    return f"{total / 2**30:.1f} ({', '.join([f'{layout.tokens_at_once:,}', *notes])})"


@pytest.mark.parametrize("model", SHAPES)
def test_the_table_of_cards_is_what_the_estimate_says(model: str) -> None:
    page = (ROOT / "docs/memory.md").read_text(encoding="utf-8")
    cells = [estimate(model, memory) for memory in ("8gb", "12gb", "16gb", "24gb")]
    assert f"| {model} | {' | '.join(cells)} |" in page
