"""The run folder: where each stage writes, what made it, and when it counts as finished.

A stage that starts writes `started.json` (what it is made from, and what an engine chose by itself); while it
works its records go to `x.jsonl.partial`; when it is done the files get their names and `manifest.json` is
written last. The manifest's presence means that the stage finished.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lema_local import __version__
from lema_local.errors import InputError, RunStateError
from lema_local.jsonl import sync_folder, told_disk_errors
from lema_local.machine import describe_machine

LIBRARIES = (
    "llama-cpp-python", "litellm", "torch", "transformers", "peft", "trl", "bitsandbytes", "gguf", "math-verify",
)  # fmt: skip
"""Those whose version can change a result."""

MadeFrom = dict[str, Any]
"""Everything that can change a stage's result, by name: earlier stages' fingerprints, settings, hashes of files."""


class Manifest(BaseModel):
    """What a stage was made from and what came of it."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    fingerprint: str
    made_from: MadeFrom
    chosen: dict[str, Any] = Field(default_factory=dict)
    """What an engine chose by itself when the stage started; used again on resume."""
    counts: dict[str, Any] = Field(default_factory=dict)
    seconds: float = 0.0
    """Work time of this run, summed over interrupted starts; 0 for what was taken over, as `cost_usd`."""
    cost_usd: float = 0.0
    """Dollars paid by this run (replies from the journal cost nothing again)."""
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, str] = Field(default_factory=dict)
    """What it ran on; empty in files of before."""
    finished_at: str | None = None
    reused_from: str | None = None


def fingerprint(made_from: Mapping[str, Any]) -> str:
    """Return a short hash of everything that made a result."""
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}", hint="check the path") from err


def library_versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of the libraries that can change a result."""
    found = {"python": platform.python_version(), "lema-local": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_text(path: Path, text: str) -> None:
    """Write a small file so that either the old or the new content is there, whole."""
    partial = path.with_name(path.name + ".partial")
    with told_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        sync_folder(path.parent)


class StageFolder:
    """One stage's folder in a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def manifest_path(self) -> Path:
        """Present once the stage has finished."""
        return self.path / "manifest.json"

    @property
    def started_path(self) -> Path:
        """Present once the stage has started."""
        return self.path / "started.json"

    def manifest(self) -> Manifest | None:
        """Return what the finished stage says of itself; None where it has not finished."""
        return _read_manifest(self.manifest_path)

    def started(self) -> Manifest | None:
        """Return what the started stage says of itself; None where it has not started."""
        return _read_manifest(self.started_path)

    def save_started(self, manifest: Manifest) -> None:
        """Say what this stage is being made from, before its first record."""
        write_text(self.started_path, manifest.model_dump_json(indent=2) + "\n")

    def save_manifest(self, manifest: Manifest) -> None:
        """Declare the stage finished. Everything else of it is on disk by now."""
        done = manifest.model_copy(
            update={
                "versions": library_versions(),
                "machine": describe_machine(),
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        write_text(self.manifest_path, done.model_dump_json(indent=2) + "\n")

    def take_over(self, other: StageFolder) -> None:
        """Copy a finished stage from another run: the manifests of its parts after all files, its own one last."""
        with told_disk_errors(self.path):
            shutil.rmtree(self.path, ignore_errors=True)
            shutil.copytree(
                other.path, self.path, ignore=shutil.ignore_patterns("manifest.json", "*.partial")
            )
        parts = (path.parent.relative_to(other.path) for path in other.path.rglob("manifest.json"))
        for part in sorted(parts, key=lambda path: len(path.parts), reverse=True):
            source = StageFolder(other.path / part)
            manifest = source.manifest()
            assert manifest is not None
            reused = manifest.model_copy(
                update={"reused_from": str(source.path), "cost_usd": 0.0, "seconds": 0.0}
            )
            write_text(StageFolder(self.path / part).manifest_path, reused.model_dump_json(indent=2) + "\n")


def _read_manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as err:
        raise RunStateError(
            f"{path} is damaged: {str(err).splitlines()[0]}",
            hint=f"delete the folder {path.parent} to make this stage again",
        ) from err


class RunFolder:
    """A run's folder.

    Args:
        path: Created by `save_recipe`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe, written first."""
        return self.path / "recipe.yaml"

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.recipe_path.is_file()

    def stage(self, folder: str) -> StageFolder:
        """Return one stage's folder, such as `1_sample`."""
        return StageFolder(self.path / folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of this run.

        Raises:
            RunStateError: If another process is at work in it.
        """
        from filelock import FileLock, Timeout

        with told_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout as err:
                raise RunStateError(
                    f"another process is at work in {self.path}",
                    hint="wait for it to end, or choose another folder with --run",
                ) from err
        try:
            yield
        finally:
            lock.release()


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words what differs between what made a result and what is asked for now.

    Nested settings are named with dots: `sample.temperature: was 0.7, is 0.9`.
    """
    old, new = dict(_flatten(before)), dict(_flatten(now))
    return [
        f"{name}: was {old.get(name, 'not set')}, is {new.get(name, 'not set')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item
