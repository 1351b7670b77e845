"""What commands about reasoning paths have in common: the record beside a file, lists, the summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.progress import notice

if TYPE_CHECKING:
    from lema_local.runs import Manifest
    from lema_local.stages.sample import SampleSummary

SHOWN = 20
"""Lines of a list that are shown before the rest is counted."""


class SampleRecord:
    """What stands beside an output file: `PATHS.started.json` while it grows, `PATHS.manifest.json` when whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started_path = path.with_name(path.name + ".started.json")
        self._manifest_path = path.with_name(path.name + ".manifest.json")
        self._manifest = self._read(self._manifest_path) or self._read(self._started_path)

    @staticmethod
    def _read(path: Path) -> Manifest | None:
        from pydantic import ValidationError

        from lema_local.errors import RunStateError
        from lema_local.runs import Manifest

        try:
            return Manifest.model_validate_json(path.read_bytes()) if path.exists() else None
        except (ValidationError, OSError) as err:
            raise RunStateError(f"cannot read {path}", hint="delete it to begin anew") from err

    def is_finished(self, made_from: dict[str, Any]) -> bool:
        """Say whether the file is whole; note what is being made where nothing was begun.

        Raises:
            RunStateError: If what stands there was made from something else.
        """
        from lema_local.errors import RunStateError
        from lema_local.runs import Manifest, changed_settings, fingerprint

        if self._manifest is not None and not self._has_begun():
            self._manifest = None
        if self._manifest is None:
            if self.path.exists():
                raise RunStateError(
                    f"{self.path} exists, and lema sample did not make it", hint="another --out"
                )
            self._manifest = Manifest(stage="sample", fingerprint=fingerprint(made_from), made_from=made_from)
            self._save(self._started_path)
        if self._manifest.fingerprint != fingerprint(made_from):
            changes = "\n".join(
                f"  - {line}" for line in changed_settings(self._manifest.made_from, made_from)
            )
            raise RunStateError(
                f"{self.path} was begun with other settings:\n{changes}",
                hint=f"another --out, the old settings, or delete {self.path}*",
            )
        return self._manifest.finished_at is not None and self.path.exists()

    def _has_begun(self) -> bool:
        """Say whether any path was written; a start that failed before binds nobody to its settings."""
        partial = self.path.with_name(self.path.name + ".partial")
        return self.path.exists() or (partial.exists() and partial.stat().st_size > 0)

    def _save(self, path: Path) -> None:
        from lema_local.runs import write_text

        assert self._manifest is not None
        write_text(path, self._manifest.model_dump_json(indent=2) + "\n")

    def chosen(self) -> dict[str, Any] | None:
        """Return what the engine chose at an earlier start."""
        return (self._manifest.chosen or None) if self._manifest else None

    def save_chosen(self, chosen: dict[str, Any]) -> None:
        """Keep what the engine chose, before it decodes anything."""
        assert self._manifest is not None
        self._manifest = self._manifest.model_copy(update={"chosen": chosen})
        self._save(self._started_path)

    def finish(self, counts: dict[str, Any], seconds: float) -> None:
        """Declare the file whole; it is on disk by now."""
        from datetime import UTC, datetime

        from lema_local.runs import library_versions

        assert self._manifest is not None
        self._manifest = self._manifest.model_copy(
            update={
                "counts": counts,
                "seconds": round(self._manifest.seconds + seconds, 3),
                "versions": library_versions(),
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        self._save(self._manifest_path)
        self._started_path.unlink(missing_ok=True)

    def add_seconds(self, seconds: float) -> None:
        """Count the time of a go that was interrupted."""
        assert self._manifest is not None
        self._manifest = self._manifest.model_copy(
            update={"seconds": round(self._manifest.seconds + seconds, 3)}
        )
        self._save(self._started_path)

    def summary(self) -> SampleSummary:
        """Return what the finished sampling brought."""
        from lema_local.stages.sample import SampleSummary

        assert self._manifest is not None
        return SampleSummary.model_validate(self._manifest.counts)

    @property
    def seconds(self) -> float:
        """Work time, summed over interrupted goes."""
        return self._manifest.seconds if self._manifest else 0.0


def show_list(title: str, lines: Sequence[str]) -> None:
    """Write up to 20 lines to stderr, and count the rest."""
    if not lines:
        return
    rest = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    notice("\n".join([f"{len(lines)} {title}:", *(f"  - {line}" for line in lines[:SHOWN]), *rest]))


def print_summary(summary: SampleSummary, is_json: bool, seconds: float = 0.0) -> None:
    """Print what the paths come to.

    Args:
        summary: The counts.
        is_json: For a program.
        seconds: Work time; 0 where nothing was sampled.
    """
    tokens = summary.completion_tokens
    rate = round(tokens / seconds, 1) if tokens is not None and seconds else None
    if is_json:
        speed = {"seconds": seconds, "tokens_per_s": rate} if seconds else {}
        click.echo(json.dumps(summary.model_dump() | speed, indent=2))
        return
    click.echo(format_summary(summary))
    if seconds:
        click.echo(f"{seconds:.0f} s" + (f", {rate:,.0f} tokens/s, loading included" if rate else ""))


def format_summary(summary: SampleSummary) -> str:
    """Return the summary for people."""
    lines = [
        f"{summary.questions} questions, {summary.paths} paths ({summary.distinct_paths} distinct),"
        f" {summary.distinct_mistakes} different mistakes",
        *(f"{name}:\n  " + "\n  ".join(_describe(own)) for name, own in summary.students.items()),
        *([] if summary.students else _describe(summary)),
        "tokens: not told by the server"
        if summary.completion_tokens is None
        else f"{summary.completion_tokens:,} tokens written",
    ]
    if summary.left_out_mistakes:
        lines.insert(1, f"{summary.left_out_mistakes} of them left out: more than are kept of one question")
    return "\n".join(lines)


def _describe(summary: SampleSummary) -> list[str]:
    """Return the lines about one student."""
    total = max(summary.paths, 1)
    asked = max(summary.never_wrong + summary.sometimes_wrong + summary.always_wrong, 1)
    shares = [
        f"{name.replace('_', ' ')} {getattr(summary, name)} ({getattr(summary, name) / total:.1%})"
        for name in ("correct", "wrong", "no_answer", "truncated", "undecided")
    ]
    return [
        f"pass@1 {summary.pass_at_1:.1%}",
        ", ".join(shares),
        f"questions never wrong {summary.never_wrong / asked:.1%}, sometimes {summary.sometimes_wrong / asked:.1%},"
        f" always {summary.always_wrong / asked:.1%}",
    ]
