"""Rows of a file, whatever its form: JSON Lines, a JSON list, CSV, ASDiv's XML. Problems are collected by line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.jsonl import iterate_objects, parse_json

Placed = tuple[str, dict[str, Any]]
"""(where: `line 12` or `record 12`, the row)"""


def iterate_rows(path: Path, problems: list[str]) -> Iterator[Placed]:
    """Yield the rows of a file with their place; append to `problems` what is none.

    Raises:
        InputError: If the file cannot be read at all.
    """
    if path.is_dir():
        raise InputError(
            f"{path} is a folder", hint="give the file in it, or NAME:FOLDER for a dataset's release"
        )
    if not path.is_file():
        raise InputError(f"no such file: {path}", hint="check the path")
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from _iterate_csv(path, problems)
    elif path.suffix.lower() == ".xml":
        yield from _iterate_asdiv_xml(path)
    elif _is_json_list(path):
        yield from _iterate_json_list(path, problems)
    else:
        for number, row in iterate_objects(path, problems):
            yield f"line {number}", row


def _is_json_list(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as err:
        line = err.object[: err.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: not valid UTF-8 (byte {err.start})", hint="save the file as UTF-8"
        ) from err


def _iterate_json_list(path: Path, problems: list[str]) -> Iterator[Placed]:
    try:
        values = parse_json(_read_text(path))
    except ValueError as err:
        raise InputError(f"{path}: {err}", hint="mend the file") from err
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield f"record {number}", value
        else:
            problems.append(f"record {number}: not an object")


def _iterate_csv(path: Path, problems: list[str]) -> Iterator[Placed]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(_read_text(path).splitlines(keepends=True), delimiter=delimiter, strict=True)
    before = 1  # the header's line
    twice = sorted({name for name in reader.fieldnames or [] if (reader.fieldnames or []).count(name) > 1})
    if twice:
        problems.append(f"line 1: several columns are called {', '.join(map(repr, twice))}")
        return
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            problems.append(f"line {before + 1}: {err}")
            return
        line, before = before + 1, reader.line_num
        if None in row or None in row.values():
            problems.append(f"line {line}: {len(reader.fieldnames or [])} columns expected")
        else:
            yield f"line {line}", dict(row)


def _iterate_asdiv_xml(path: Path) -> Iterator[Placed]:
    # Python's expat (2.4.1 and later) refuses entity bombs; external entities are not loaded.
    import xml.etree.ElementTree as ET

    try:
        root = ET.fromstring(_read_text(path).encode("utf-8"))  # noqa: S314
    except ET.ParseError as err:
        raise InputError(f"{path}: not valid XML: {err}", hint="mend the file") from err
    for number, problem in enumerate(root.iter("Problem"), 1):
        row: dict[str, Any] = {child.tag.lower().replace("-", "_"): child.text or "" for child in problem}
        yield f"record {number}", row | {"id": problem.get("ID")}
