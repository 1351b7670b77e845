"""A file of teachers' answers made in several goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_records import make_correction

from lema_local.errors import InputError
from lema_local.jsonl import read_records, write_records
from lema_local.records import Correction
from lema_local.resuming import ResumedFile


def key(question_id: str) -> tuple[str, str, int]:
    return question_id, "s", 0


def test_what_stands_is_kept_what_failed_is_tried_again_and_all_end_in_order(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    earlier = [
        make_correction("a"),
        make_correction("b", "failed"),
        make_correction("gone", "rejected", "r"),
    ]
    write_records(out, earlier)
    write_records(
        tmp_path / "out.jsonl.partial",
        [make_correction("c", "failed"), make_correction("d", "rejected", "r")],
    )
    with ResumedFile(out, Correction) as file:
        assert file.kept == {key("a"): "accepted", key("gone"): "rejected", key("d"): "rejected"}
        assert {one.question_id for one in file.sample_kept()} == {"a", "gone", "d"}
        file.append(make_correction("b"))
        file.append(make_correction("c", "failed", "again"))
        made = file.finish([key(name) for name in ("d", "c", "b", "a", "never")])
    assert [one.question_id for one in made] == ["d", "c", "b", "a"]
    assert [one.verdict for one in made] == ["rejected", "failed", "accepted", "accepted"]
    assert read_records(out, Correction) == made
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_fresh_puts_aside_what_stands_until_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write_records(out, [make_correction("a"), make_correction("b")])
    with ResumedFile(out, Correction, is_fresh=True) as file:
        assert (file.kept, file.sample_kept()) == ({}, [])
        file.append(make_correction("a", "rejected", "r"))
        assert len(read_records(out, Correction)) == 2
        file.finish([key("a"), key("b")])
    assert [one.verdict for one in read_records(out, Correction)] == ["rejected"]


def test_a_line_that_is_no_correction_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    write_records(partial, [make_correction("a")])
    with partial.open("a") as stream:
        stream.write(make_correction("b").model_dump_json().replace('"explanation"', '"reasons"') + "\n")
    before = partial.read_bytes()
    with ResumedFile(out, Correction) as file:
        for read in (file.sample_kept, lambda: file.finish([key("a"), key("b")])):
            with pytest.raises(InputError, match="line 2: explanation: field required"):
                read()
    assert partial.read_bytes() == before
    with partial.open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(InputError, match="line 3: question_id: field required"):
        ResumedFile(out, Correction)
