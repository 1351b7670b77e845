"""The directions of imports (docs/decisions/0002-layers.md), and that heavy libraries are imported late."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "lema_local"
LAYERS = (
    {"errors"},
    {"records", "steps", "arithmetic", "jsonl", "shipped", "home", "machine", "quickstart"},
    {"runs", "run_progress", "resuming", "keys", "sample_budget", "grades"},
    {"stage_runner", "rounds"},
    {"run_status"},
    {"answers", "statistics", "contamination"},
    {"corrections", "prompts", "datasets"},
    {"students", "teachers", "training"},
    {"formats"},
    {"stages"},
    {"recipe", "report", "sampling", "teamwork", "teacher_bench"},
    {"wiring", "doctor", "review", "sharing"},
    {"pipeline", "planning"},
    {"curve"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAY_IMPORT_WITHIN_LAYER = {
    ("students", "records"), ("jsonl", "records"), ("prompts", "students"), ("teachers", "students"),
    ("stages", "report"),
}  # fmt: skip
"""Beside imports of lower layers: the protocols of students and teachers are types that prompts need, too; the
report stage reads a run folder."""
OWNERS = {
    "torch": "training", "transformers": "training", "peft": "training", "trl": "training",
    "bitsandbytes": "training", "gguf": "training", "llama_cpp": "students", "litellm": "teachers",
    "sympy": "answers", "math_verify": "answers",
    "starlette": "review", "uvicorn": "review", "latex2mathml": "report",
}  # fmt: skip
HEAVY = {*OWNERS, "datasets", "matplotlib", "scipy", "statsmodels", "rich", "pebble", "huggingface_hub"}


def _modules() -> Iterator[tuple[Path, str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        yield path, relative.parts[0].removesuffix(".py"), ast.parse(path.read_text(encoding="utf-8"))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        return [node.module]
    return []


def test_no_import_goes_up() -> None:
    wrong = []
    for path, part, tree in _modules():
        if part == "__init__":
            continue
        for node in ast.walk(tree):
            for name in _imported(node):
                if not name.startswith("lema_local."):
                    continue
                other = name.split(".")[1]
                is_lower = LEVEL[other] < LEVEL[part] or other == part
                if not is_lower and (part, other) not in MAY_IMPORT_WITHIN_LAYER:
                    wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} imports {name}")  # type: ignore[attr-defined]
    assert wrong == []


def test_no_stage_imports_another() -> None:
    names = {f"lema_local.stages.{path.stem}" for path in (PACKAGE / "stages").glob("*.py")}
    wrong = [
        f"{path.name} imports {name}"
        for path, part, tree in _modules()
        if part == "stages"
        for node in ast.walk(tree)
        for name in _imported(node)
        if name in names
    ]
    assert wrong == []


def test_heavy_libraries_are_imported_in_the_folder_that_owns_them() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path, part, tree in _modules()
        for node in ast.walk(tree)
        for name in _imported(node)
        if OWNERS.get(name.split(".")[0], part) != part
    ]
    assert wrong == []


@pytest.mark.parametrize("arguments", [["--help"], ["recipes", "list"], ["--version"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom lema_local.cli import lema\n"
        f"lema.main({arguments!r}, standalone_mode=False)\n"
        f"found = sorted({HEAVY!r} & set(sys.modules))\n"
        "sys.exit('imported: ' + ', '.join(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_in_the_table_exists_and_its_help_line_is_true() -> None:
    from lema_local.cli import COMMANDS, lema

    for name in COMMANDS:
        command = lema.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.get_short_help_str(200), name
