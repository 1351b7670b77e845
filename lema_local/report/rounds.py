"""The rounds of a run side by side: the run's own folder is the first, `round_2`, `round_3` ... are of its shape."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lema_local.report import stage_lines
from lema_local.report.data import RoundLine
from lema_local.report.files import RunReader
from lema_local.report.funnel import tally_corrections, tally_paths
from lema_local.report.outcomes import read_scores
from lema_local.report.summary import missing_stages, total_cost_usd, total_seconds


def find_rounds(run_dir: Path) -> dict[int, Path]:
    """Return the folders of the rounds by number; only the first where there are no others."""
    found = {1: run_dir}
    for path in run_dir.glob("round_*"):
        number = re.fullmatch(r"round_([2-9]|[1-9]\d+)", path.name)
        if number and path.is_dir():
            found[int(number[1])] = path
    return dict(sorted(found.items()))


def read_rounds(reader: RunReader) -> list[RoundLine]:
    """Return what each round brought; nothing where there is one."""
    found = find_rounds(reader.run_dir)
    if len(found) < 2:
        return []
    records = _read_records(reader)
    return [_read_round(reader, number, path, records.get(number, {})) for number, path in found.items()]


def _read_records(reader: RunReader) -> dict[int, Mapping[str, Any]]:
    """Return what the run itself says of its rounds, by their number."""
    text = reader.read_text("rounds.json")
    if text is None:
        return {}
    try:
        records = json.loads(text)
        return {int(one["round"]): one for one in records}
    except (ValueError, TypeError, KeyError):
        reader.tell("rounds.json is damaged: what it says of the rounds is left out")
        return {}


def _read_round(reader: RunReader, number: int, path: Path, record: Mapping[str, Any]) -> RoundLine:
    own = RunReader(path)
    stages = stage_lines.read_stages(own)
    scores = read_scores(own)
    sampled = tally_paths(own).samples
    line = RoundLine(
        number=number,
        state="unfinished" if missing_stages(stages) else "finished",
        wrong=sampled["wrong"],
        samples=sampled.total(),
        accepted=len(tally_corrections(own).accepted),
        cost_usd=total_cost_usd(stages),
        seconds=total_seconds(stages),
        shares={(one.arm, one.dataset): one.share for one in (scores.arms if scores else ())},
        sampled_from=record.get("sampled_from"),
        new_mistakes=record.get("new_mistakes"),
        reason=record.get("reason"),
    )
    for problem in own.problems if number > 1 else ():
        reader.tell(f"round {number}: {problem}")
    return line
