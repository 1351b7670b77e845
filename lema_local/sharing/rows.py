"""Rows of a shared folder, of another group's files, or of a data set on the hub. Nothing in them is believed here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lema_local.datasets.files import iterate_rows
from lema_local.errors import BackendUnavailable, InputError
from lema_local.jsonl import describe_problems
from lema_local.runs import hash_file
from lema_local.sharing.export import FACTS_FILE
from lema_local.sharing.schema import VERSION, Row
from lema_local.training.bases import HUB_NAME

FORMS = (("*.parquet",), ("*.jsonl", "*.json", "*.csv", "*.tsv"))
"""Files of rows in a folder; where there are some of the first kind the others are not looked at."""
_NO_ROWS = ("lema_dataset.json", "contamination.json", "dataset_infos.json", "import.json")


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of a source, with their places."""

    source: str
    """As the user named it."""
    name: str
    """Short, for the ids of questions that have none."""
    corrections: list[tuple[str, Row]]
    questions: list[tuple[str, Row]]
    """Of the table of questions; empty where there is none."""
    files: dict[str, str]
    """SHA-256 by the file's name in the source."""


def read_source(source: str, *, files: str | None = None) -> Found:
    """Return the rows of a folder, a file, or a data set on the hub.

    Args:
        source: A path, or OWNER/NAME.
        files: A pattern of names within the folder, such as `data/train-*.parquet`; None: all files of rows.

    Raises:
        InputError: If there is nothing of the kind, or a file cannot be read.
        BackendUnavailable: If the hub cannot be reached, or what reads Parquet is not installed.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return Found(source, path.stem, list(_read_file(path)), [], {path.name: hash_file(path)})
    folder = path if path.is_dir() else _fetch(source)
    _check_version(folder)
    chosen = _list_files(folder, files)
    tables: dict[bool, list[tuple[str, Row]]] = {True: [], False: []}
    for name in chosen:
        tables[name.startswith("questions/")] += [
            (f"{name}, {place}", row) for place, row in _read_file(folder / name)
        ]
    sums = {name: hash_file(folder / name) for name in chosen}
    return Found(source, Path(source).name, tables[False], tables[True], sums)


def _list_files(folder: Path, pattern: str | None) -> list[str]:
    for forms in FORMS:
        found = sorted(
            path.relative_to(folder).as_posix()
            for form in forms
            for path in folder.rglob(form)
            if path.name not in _NO_ROWS
        )
        chosen = [name for name in found if pattern is None or fnmatch(name, pattern)]
        if chosen:
            return chosen
    told = f" like {pattern}" if pattern else ""
    raise InputError(
        f"{folder} holds no file of rows{told}",
        hint="Parquet, JSON Lines, JSON or CSV; or name the file itself",
    )


def _check_version(folder: Path) -> None:
    if (folder / "import.json").is_file():
        raise InputError(
            f"{folder} is what an import wrote",
            hint=f"use it as it is: correct.source={folder / 'corrections.jsonl'}",
        )
    path = folder / FACTS_FILE
    if not path.is_file():
        return
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InputError(
            f"{path} is damaged: {type(err).__name__}", hint="take it away, or fetch it again"
        ) from err
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{path} is of version {version!r} of these columns, this program reads {VERSION}",
            hint="use a newer lema-local",
        )


def _read_file(path: Path) -> Iterator[tuple[str, Row]]:
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    problems: list[str] = []
    rows = list(iterate_rows(path, problems))
    if problems:
        raise InputError(describe_problems(path, problems), hint="mend the file")
    yield from rows


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as err:
        raise BackendUnavailable(
            f"reading {path.name} needs the package 'datasets', which is not installed",
            hint="pip install 'lema-local[train]'",
        ) from err
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as err:
        raise InputError(
            f"{path} is no Parquet file: {str(err).splitlines()[0]}", hint="fetch it again"
        ) from err
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _fetch(name: str) -> Path:
    """Return the folder of a data set on the hub, fetched once; code in it is neither fetched nor run."""
    if not HUB_NAME.fullmatch(name):
        raise InputError(f"no such file or folder: {name}", hint="a path, or OWNER/NAME of the hub")
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    wanted = ["*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv"]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
    except (
        HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError, OSError,
    ) as err:  # fmt: skip
        raise BackendUnavailable(
            f"{name} is no folder here, and cannot be fetched from the hub: {str(err).splitlines()[0]}",
            hint="check the name; go online (and unset HF_HUB_OFFLINE); hf auth login where it is private",
        ) from err
