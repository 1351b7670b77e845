"""`lema batch`: corrections by files of requests, at batch prices, into the same journal."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.progress import notice
from lema_local.cli.teachers import correct, read_one_teacher

if TYPE_CHECKING:
    from lema_local.teachers.base import TeacherRequest
    from lema_local.teachers.batch_book import Batch, BatchBook
    from lema_local.teachers.batch_files import BatchLimits, ImportCount
    from lema_local.teachers.batch_service import BatchService, RemoteBatch
    from lema_local.teachers.journal import Journal
    from lema_local.teachers.litellm_teacher import LiteLLMTeacher
    from lema_local.teachers.settings import TeacherSettings

_FILE = click.Path(path_type=Path, dir_okay=False)
_ONLINE = {
    "fallback",
    "fallback_url",
    "fallback_price_in",
    "fallback_price_out",
    "paths",
    "out",
    "concurrency",
    "timeout_s",
    "retries",
    "rpm",
    "tpm",
    "max_usd",
    "max_calls",
    "fresh",
}
"""What only a command that asks by itself can use."""


@click.group()
def batch() -> None:
    """Let a teacher correct by batches: files of requests, answered within a day at batch prices.

    Replies go into the journal; the same `lema correct` or `lema run` as ever then finds them there, and asks online
    only what the batch did not answer.

    \b
    Example:
      lema batch export paths.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --out requests.jsonl
      lema batch submit requests.jsonl --max-usd 5
      lema batch fetch
      lema correct paths.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --out corrections.jsonl
    """


@batch.command("export")
@click.argument("paths", metavar="PATHS", type=_FILE)
@click.option(
    "--out", required=True, type=_FILE, metavar="REQUESTS", help="The file, or the first part of their names."
)
@click.option("--max-requests", type=click.IntRange(min=1), help="Of a file [the provider's limit].")
@click.option(
    "--max-mb",
    type=click.FloatRange(min=0.001),
    help="Of a file, in millions of bytes [the provider's limit].",
)
@click.option(
    "--max-prompt-tokens",
    type=click.IntRange(min=1),
    help="Of a file, estimated: where the account may have only so many waiting.",
)
def export_command(paths: Path, out: Path, **flags: Any) -> None:
    """Write the requests about the mistakes among PATHS that the journal has no reply to.

    The options are those of `lema correct`: replies fit what it will ask with the same ones. Nothing is asked, and no
    key is needed. Prices given are those in a batch.

    \b
    Example:
      lema batch export paths.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --out requests
    """
    from lema_local.teachers.batch_book import BatchBook
    from lema_local.teachers.batch_files import write_batches
    from lema_local.teachers.journal import Journal

    asked_as = read_one_teacher(flags)
    teacher = _open_teacher(asked_as.model, asked_as.url, flags, needs_key=False)
    with Journal() as journal:
        book = BatchBook(journal)
        needed, mistakes, known = _collect(paths, teacher, asked_as, journal, flags)
        waiting = book.find_out(list(needed))
        asked = {key: request for key, request in needed.items() if key not in waiting}
        batches = write_batches(
            asked.items(),
            teacher,
            book,
            out,
            _limits(teacher.provider, flags),
            scope=str(out.resolve()),
            price=teacher.batch_price(),
        )
        told = [{"file": str(one.requests_path), **asdict(book.count(one.batch_id))} for one in batches]
    if flags["is_json"]:
        click.echo(
            json.dumps({"mistakes": mistakes, "from_journal": known, "in_batch": len(waiting), "files": told})
        )
        return
    click.echo(
        f"{mistakes} mistakes: {known} have their reply in the journal, {len(waiting)} requests are out in a batch"
    )
    for one in told:
        click.echo(f"{one['items']} requests, at most ${one['open_usd']:.4f}: {one['file']}")
    if not batches:
        click.echo("nothing is left to ask")


export_command.params += [param for param in correct.params if param.name not in _ONLINE]


def _collect(
    paths: Path, teacher: LiteLLMTeacher, asked_as: TeacherSettings, journal: Journal, flags: dict[str, Any]
) -> tuple[dict[str, TeacherRequest], int, int]:
    """Return the requests that the journal has no reply to by their keys, the mistakes, and how many have one."""
    from lema_local.cli.teachers import correct_settings
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records
    from lema_local.prompts import load_correction_prompt
    from lema_local.records import ReasoningPath
    from lema_local.stages.correct import correct_mistakes, select_mistakes
    from lema_local.teachers import open_desk, prompt_for
    from lema_local.teachers.scheduler import DeskSettings

    settings = correct_settings(flags)
    mistakes = list(
        select_mistakes(read_records(paths, ReasoningPath), load_questions(flags["questions"]), settings)
    )
    prompt = load_correction_prompt(flags["prompt"])
    needed: dict[str, TeacherRequest] = {}
    desk_settings = DeskSettings.from_stage(settings)
    with open_desk(teacher, journal, desk_settings, scope="", collect=needed.__setitem__) as desk:
        made = correct_mistakes(mistakes, desk, prompt_for(desk, prompt), settings, asked_as)
        verdicts = Counter(correction.verdict for correction in made)
    return needed, len(mistakes), verdicts["accepted"] + verdicts["rejected"]


def _limits(provider: str, flags: dict[str, Any]) -> BatchLimits:
    from lema_local.teachers.batch_files import PROVIDER_LIMITS, BatchLimits

    known = PROVIDER_LIMITS.get(provider, BatchLimits())
    size = known.size_bytes if flags["max_mb"] is None else int(flags["max_mb"] * 1e6)
    return BatchLimits(flags["max_requests"] or known.requests, size, flags["max_prompt_tokens"])


def _open_teacher(
    name: str, url: str | None, flags: dict[str, Any], *, needs_key: bool = True
) -> LiteLLMTeacher:
    from lema_local.errors import InputError
    from lema_local.teachers import needs_no_endpoint, open_teacher
    from lema_local.teachers.litellm_teacher import LiteLLMTeacher
    from lema_local.teachers.offline import go_offline

    if needs_no_endpoint(name):
        raise InputError(f"{name} answers at once and free of charge", hint="lema correct")
    if flags.get("offline"):
        go_offline(url)
    teacher = open_teacher(
        name,
        url=url,
        price_in=flags.get("price_in"),
        price_out=flags.get("price_out"),
        options={"reasoning_effort": flags["reasoning_effort"]} if flags.get("reasoning_effort") else None,
        needs_key=needs_key,
    )
    assert isinstance(teacher, LiteLLMTeacher)
    return teacher


@contextmanager
def _open_book() -> Iterator[tuple[Journal, BatchBook]]:
    from lema_local.teachers.batch_book import BatchBook
    from lema_local.teachers.journal import Journal

    with Journal() as journal:
        yield journal, BatchBook(journal)


def _services() -> Any:
    """Return a function from a batch to its provider's calls; each provider is opened once."""
    from lema_local.teachers.batch_service import BatchService

    opened: dict[tuple[str, str | None], BatchService] = {}

    def open_service(batch: Batch) -> BatchService:
        where = (batch.teacher, batch.url)
        if where not in opened:
            opened[where] = BatchService(_open_teacher(*where, {}))
        return opened[where]

    return open_service


# -- Sending


@batch.command("submit")
@click.argument("requests", nargs=-1, required=True, type=_FILE)
@click.option(
    "--max-usd", type=click.FloatRange(min=0), help="Let these files' batches cost at most so many dollars."
)
def submit_command(requests: tuple[Path, ...], max_usd: float | None) -> None:
    """Send exported REQUESTS to their provider; each file once, however often this is run.

    \b
    Example:
      lema batch submit requests-1.jsonl requests-2.jsonl --max-usd 5
    """
    from lema_local.cli.resuming import same_command
    from lema_local.errors import BudgetReached

    with _open_book() as (journal, book):
        batches = [book.find_file(path) for path in requests]
        service = _services()
        for one in batches:
            if one.state in {"submitted", "ended"}:
                notice(f"{one.requests_path} is sent already, as {one.remote_id}")
                continue
            try:
                _check_budget(one, journal, book, max_usd)
            except BudgetReached as err:
                enough = math.ceil(100 * (_spent(one, journal) + book.count(one.batch_id).open_usd)) / 100
                raise BudgetReached(
                    f"{one.requests_path} is not sent: {err}; files before it are",
                    hint=same_command(max_usd=enough),
                ) from err
            remote = _submit(one, book, service(one))
            click.echo(f"{remote.remote_id}  {remote.status}  {one.requests_path}")


def _check_budget(one: Batch, journal: Journal, book: BatchBook, max_usd: float | None) -> None:
    """Make sure that a batch fits even at its worst.

    Raises:
        BackendUnavailable: If its price is not known.
        BudgetReached: If it does not fit.
    """
    from lema_local.errors import BackendUnavailable
    from lema_local.teachers.budget import Budget

    if max_usd is None:
        return
    if one.price is None:
        raise BackendUnavailable(
            f"the price of {one.teacher} was not known when {one.requests_path} was exported",
            hint="export with --price-in and --price-out, or leave --max-usd out",
        )
    if one.state == "submitting":
        return  # it is among what is spent
    Budget(max_usd, spent_usd=_spent(one, journal)).reserve(book.count(one.batch_id).open_usd)


def _spent(one: Batch, journal: Journal) -> float:
    return journal.spending(one.scope).spent_usd


def _submit(one: Batch, book: BatchBook, service: BatchService) -> RemoteBatch:
    from lema_local.errors import BackendError
    from lema_local.teachers.base import CallFailed
    from lema_local.teachers.batch_files import check_unchanged

    check_unchanged(one)
    if one.state == "submitting":
        notice(
            f"an earlier submission of {one.requests_path} was interrupted: looking whether it got through"
        )
        if (found := service.find(one.batch_id)) is not None:
            book.move(one.batch_id, "submitted", found.remote_id, found.status)
            return found
    file_id = service.upload(one.requests_path)
    book.move(one.batch_id, "submitting")
    try:
        remote = service.start(file_id, one.batch_id)
    except CallFailed as err:
        # Whatever else went wrong, it may have been started.
        if err.is_unreachable or err.is_rate_limit:
            book.move(one.batch_id, "exported")
        raise
    except BackendError:
        book.move(one.batch_id, "exported")
        raise
    book.move(one.batch_id, "submitted", remote.remote_id, remote.status)
    return remote


# -- Looking and fetching


def _choose(book: BatchBook, requests: Sequence[Path]) -> list[Batch]:
    return [book.find_file(path) for path in requests] if requests else book.list_unfinished()


@batch.command("status")
@click.argument("requests", nargs=-1, type=_FILE)
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")
def status_command(requests: tuple[Path, ...], is_json: bool) -> None:
    """Say how the batches of REQUESTS stand; without any: all that have not ended.

    \b
    Example:
      lema batch status
    """
    with _open_book() as (_, book):
        service = _services()
        for one in _choose(book, requests):
            remote = service(one).look(one.remote_id) if one.state == "submitted" and one.remote_id else None
            if remote is not None:
                book.move(one.batch_id, "submitted", remote_status=remote.status)
            _print_status(one, book, remote, is_json=is_json)


def _print_status(one: Batch, book: BatchBook, remote: RemoteBatch | None, *, is_json: bool) -> None:
    count = book.count(one.batch_id)
    if is_json:
        facts = {"file": str(one.requests_path), "teacher": one.teacher, "state": one.state}
        click.echo(json.dumps(facts | asdict(count) | {"remote": asdict(remote) if remote else None}))
        return
    there = f", {remote.remote_id} is {remote.status}" if remote else ""
    if remote and remote.total:
        there += f" ({remote.completed} of {remote.total} done, {remote.failed} failed)"
    if remote and remote.errors:
        there += f": {remote.errors}"
    click.echo(
        f"{one.requests_path}: {one.state}{there}; {count.answered} of {count.items} answered here, "
        f"{count.failed} failed, {count.open} open"
    )


@batch.command("fetch")
@click.argument("requests", nargs=-1, type=_FILE)
@click.option("--wait", is_flag=True, help="Look every minute until all have ended.")
@click.option("--json", "is_json", is_flag=True, help="Print the account as JSON.")
def fetch_command(requests: tuple[Path, ...], wait: bool, is_json: bool) -> None:
    """Bring the replies to REQUESTS into the journal; without any: those of all batches that have not ended.

    What the provider sends stands beside the requests (.output.jsonl, .errors.jsonl) before it is read.

    \b
    Example:
      lema batch fetch --wait
    """
    with _open_book() as (_, book):
        service = _services()
        while True:
            left = 0
            for one in _choose(book, requests):
                if one.state == "submitted" and one.remote_id is not None:
                    left += not _fetch(one, book, service(one), is_json=is_json)
                elif one.state != "ended":
                    notice(f"{one.requests_path} is not sent yet: lema batch submit")
            if not wait or not left:
                break
            time.sleep(60.0)
    if left:
        notice(f"{left} batches have not ended; the same command again, or with --wait")


def _fetch(one: Batch, book: BatchBook, service: BatchService, *, is_json: bool) -> bool:
    """Take in what a batch has brought; return whether it has ended."""
    from lema_local.teachers.batch_files import take_in

    assert one.remote_id is not None
    remote = service.look(one.remote_id)
    book.move(one.batch_id, "submitted", remote_status=remote.status)
    for kind, file_id in (("output", remote.output_file_id), ("errors", remote.error_file_id)):
        if file_id is None:
            continue
        path = one.requests_path.with_suffix(f".{kind}.jsonl")
        service.download(file_id, path)
        _print_import(path, take_in(path, book), book, is_json=is_json)
    if not remote.is_final:
        _print_status(one, book, remote, is_json=is_json)
        return False
    # What a batch did not get to is not billed; a line that is missing from a completed one may be.
    missing = book.end(one, may_have_cost=remote.status == "completed")
    if missing or remote.errors:
        notice(
            f"{remote.remote_id} is {remote.status}: {missing} requests got no line. {remote.errors or ''}".rstrip()
        )
    return True


@batch.command("import")
@click.argument("replies", nargs=-1, required=True, type=_FILE)
@click.option("--json", "is_json", is_flag=True, help="Print the account as JSON.")
def import_command(replies: tuple[Path, ...], is_json: bool) -> None:
    """Take REPLIES (files of output or of errors) into the journal: any order, parts, repeated lines.

    \b
    Example:
      lema batch import batch_6745_output.jsonl batch_6745_errors.jsonl
    """
    from lema_local.teachers.batch_files import take_in

    with _open_book() as (_, book):
        for path in replies:
            _print_import(path, take_in(path, book), book, is_json=is_json)


def _print_import(path: Path, count: ImportCount, book: BatchBook, *, is_json: bool) -> None:
    open_items = sum(book.count(batch_id).open for batch_id in count.batches)
    if is_json:
        errors = dict(count.errors.most_common())
        facts = {**asdict(count), "errors": errors, "batches": sorted(count.batches), "open": open_items}
        click.echo(json.dumps({"file": str(path)} | facts))
        return
    words = ("answered", "failed", "duplicate", "unknown", "unreadable")
    parts = ", ".join(f"{getattr(count, word)} {word}" for word in words)
    click.echo(f"{path}: {count.lines} lines: {parts}; ${count.cost_usd:.4f}")
    for error, number in count.errors.most_common(10):
        click.echo(f"  {number:5d}  {error}")
    if count.unknown:
        notice(f"{count.unknown} lines answer no request that was exported under this LEMA_HOME")
    if open_items:
        notice(f"{open_items} requests of the same batches have no line yet")
