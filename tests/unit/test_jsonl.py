"""Durable JSON Lines."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest
from pydantic import BaseModel

from lema_local.errors import InputError, LemaError
from lema_local.jsonl import (
    AppendFile,
    iterate_records,
    keep_first,
    read_partial,
    read_records,
    write_records,
)


class Item(BaseModel):
    name: str
    size: int


ITEMS = [Item(name=f"item {i} ü", size=i) for i in range(5)]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert write_records(tmp_path / "x.jsonl", ITEMS) == 5
    assert read_records(tmp_path / "x.jsonl", Item) == ITEMS
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_torn_last_line_is_dropped_wherever_it_is_torn(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.jsonl.partial"
    write_records(path, ITEMS)
    os.truncate(path, path.stat().st_size - cut)
    assert read_partial(path, Item) == ITEMS[:4]
    with AppendFile(path) as file:
        file.append(ITEMS[4])
    assert read_records(path, Item) == ITEMS


def test_a_file_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.partial"
    path.write_bytes(b'{"name": "' + b"x" * 200_000)
    assert read_partial(path, Item) == []
    assert path.stat().st_size == 0


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "a"\n"size": 1}\n{"name": "b", "size": 1}, {"name": "c", "size": 2}\n',
        '{"name": "a", "size": 1}, {"name": "b", "size": 2}\n',
        '{"name": "a", "size": 1}\n], [{"name": "b", "size": 2}\n',
        '{"name": "a", "size": 1},\n{"name": "b", "size": 2}\n',
        '{"name": "a", "size": NaN}\n',
    ],
)
def test_lines_that_are_records_only_together_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"line [12]: "):
        read_records(tmp_path / "x.jsonl", Item)
    with pytest.raises(InputError, match=r"line [12]: "):
        list(iterate_records(tmp_path / "x.jsonl", Item))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n  \n", ""])
def test_line_ends_of_all_kinds_and_many_lines(tmp_path: Path, end: str) -> None:
    many = ITEMS * 5000
    (tmp_path / "x.jsonl").write_bytes(
        (end or "\n").join(one.model_dump_json() for one in many).encode() + end.encode()
    )
    assert read_records(tmp_path / "x.jsonl", Item) == many
    assert list(iterate_records(tmp_path / "x.jsonl", Item)) == many


def test_a_blank_line_far_into_a_file_neither_repeats_nor_drops_a_record(tmp_path: Path) -> None:
    lines = [one.model_dump_json() for one in ITEMS * 5000]
    (tmp_path / "x.jsonl").write_text("\n".join([*lines[:20_000], "", *lines[20_000:], ""]))
    assert list(iterate_records(tmp_path / "x.jsonl", Item)) == ITEMS * 5000


def test_malformed_lines_are_named_up_to_twenty_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    good = '{"name": "a", "size": 1}\n'
    path.write_bytes(
        (good + '{"name": "a"}\n' + "no json\n" + "[1]\n").encode() + b'{"name": "\xff", "size": 1}\n' * 30
    )
    with pytest.raises(InputError) as caught:
        read_records(path, Item)
    message = str(caught.value)
    assert "has 33 problem(s)" in message
    assert "line 2: size: field required" in message
    assert "line 3: " in message
    assert "line 4: " in message
    assert "line 5: not valid UTF-8" in message
    assert "and 13 more" in message


def test_blank_lines_do_not_shift_the_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\n\n{"name": "a", "size": "x"}\n')
    with pytest.raises(InputError, match="line 3: size"):
        read_records(path, Item)


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\ufeff{"name": "a", "size": 1}\n', encoding="utf-8")
    assert read_records(path, Item) == [Item(name="a", size=1)]


def test_a_missing_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nothing\.jsonl: No such file"):
        read_records(tmp_path / "nothing.jsonl", Item)


def test_keep_first_cuts_after_so_many_records(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.partial"
    write_records(path, ITEMS)
    keep_first(path, 2)
    assert read_records(path, Item) == ITEMS[:2]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limit on this platform")
def test_a_full_disk_keeps_what_was_written_and_leaves_no_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.partial"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with (
            pytest.raises(LemaError, match=r"cannot write .*File too large; what was written before is kept"),
            AppendFile(path) as file,
        ):
            for item in ITEMS:
                file.append(item)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_partial(path, Item) == ITEMS[:3]


def test_what_the_quick_way_of_reading_takes_is_what_the_slow_one_would(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    good = '{"name": "é 😀 \\ud83d\\ude00", "size": 1}\n'
    path.write_text(f"{good}\n  \n{good}", encoding="utf-8")
    assert read_records(path, Item) == [Item(name="é 😀 😀", size=1)] * 2
    for bad in (
        '{"name": "\\ud83d", "size": 1}',
        '{"name": "NaN", "size": NaN}',
        '{"name": "x", "size": 1}}',
    ):
        path.write_text(f"{good}{bad}\n", encoding="utf-8")
        with pytest.raises(InputError, match="line 2"):
            read_records(path, Item)
    path.write_text('{"name": "NaN", "size": 1}\n\ufeff', encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        read_records(path, Item)
    path.write_text('\ufeff{"name": "Infinity", "size": 1}\n', encoding="utf-8")
    assert read_records(path, Item) == [Item(name="Infinity", size=1)]
