"""Datasets that are released as one JSON file a problem, in a folder or in its tar: MATH."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lema_local.datasets.files import Placed
from lema_local.errors import InputError
from lema_local.jsonl import parse_json

TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def is_tar(path: Path) -> bool:
    """Whether a file's name says that it is a tar."""
    return path.name.lower().endswith(TAR_SUFFIXES)


def iterate_problem_files(path: Path, split: str, problems: list[str]) -> Iterator[Placed]:
    """Yield (name, row) of the files `.../<split>/<subject>/<number>.json`, by subject and number.

    The row says in `unique_id` where it stood (`train/algebra/24.json`), as MATH-500 does.

    Args:
        path: A tar that holds a folder of the split's name, that folder itself, or the one it lies in.
        split: The split's name.
        problems: What is wrong with a file is appended here.

    Raises:
        InputError: If the tar or the folder cannot be read.
    """
    try:
        files = _read_tar(path, split) if is_tar(path) else _read_folder(path, split)
        for name, content in sorted(files, key=lambda file: _sort_key(file[0])):
            try:
                row = parse_json(content.decode("utf-8-sig", errors="surrogateescape"))
            except ValueError as err:
                problems.append(f"{name}: {err}")
                continue
            if isinstance(row, dict):
                yield name, row | {"unique_id": name}
            else:
                problems.append(f"{name}: no JSON object but {type(row).__name__}")
    except (OSError, EOFError, tarfile.TarError) as err:
        raise InputError(f"cannot read {path}: {err}", hint="is the download complete?") from err


def _sort_key(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _read_folder(path: Path, split: str) -> list[tuple[str, bytes]]:
    root = path if path.name == split else path / split
    files = (file for file in root.rglob("*.json") if not file.name.startswith("."))
    return [(f"{split}/{file.relative_to(root).as_posix()}", file.read_bytes()) for file in files]


def _read_tar(path: Path, split: str) -> list[tuple[str, bytes]]:
    """Return names and contents; nothing is unpacked to the disk."""
    found = []
    with tarfile.open(path) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or split not in parts[:-1]:
                continue
            if parts[-1].endswith(".json") and not parts[-1].startswith("."):
                content = tar.extractfile(member)
                assert content is not None  # a file has a content
                found.append(("/".join(parts[parts.index(split) :]), content.read()))
    return found
