"""`lema batch`: corrections by files of requests, at batch prices, into the same journal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lema_local.cli.progress import notice
from lema_local.cli.teachers import augment, correct, read_teachers

if TYPE_CHECKING:
    from lema_local.records import Correction, Question, Rationale
    from lema_local.stages.correct import Mistake
    from lema_local.teachers.base import TeacherRequest
    from lema_local.teachers.batch_book import Batch, BatchBook
    from lema_local.teachers.batch_files import BatchLimits, ImportCount
    from lema_local.teachers.batch_service import BatchService, RemoteBatch
    from lema_local.teachers.desk import TeacherDesk
    from lema_local.teachers.journal import Journal
    from lema_local.teachers.litellm_teacher import LiteLLMTeacher
    from lema_local.teachers.scheduler import DeskSettings
    from lema_local.teachers.settings import TeacherSettings

Item = TypeVar("Item")
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

    Replies go into the journal; the same `lema correct`, `augment` or `run` as ever then finds them there, and asks
    online only what the batch did not answer.

    \b
    Example:
      lema batch export paths.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --out requests.jsonl
      lema batch submit requests.jsonl --max-usd 5
      lema batch fetch
      lema correct paths.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --out corrections.jsonl
    """


def export_options(command: Any) -> Any:
    """Add where requests go, and how much a file may hold."""
    options = (
        click.option(
            "--out",
            required=True,
            type=_FILE,
            metavar="REQUESTS",
            help="The file, or the first part of their names.",
        ),
        click.option("--max-requests", type=click.IntRange(min=1), help="Of a file [the provider's limit]."),
        click.option(
            "--max-mb",
            type=click.FloatRange(min=0.001),
            help="Of a file, in millions of bytes [the provider's limit].",
        ),
        click.option(
            "--max-prompt-tokens",
            type=click.IntRange(min=1),
            help="Of a file, estimated: where the account may have only so many waiting.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@batch.command("export")
@click.argument("paths", metavar="PATHS", type=_FILE)
@export_options
def export_command(paths: Path, out: Path, **flags: Any) -> None:
    """Write the requests about the mistakes among PATHS that the journal has no reply to.

    The options are those of `lema correct`: replies fit what it will ask with the same ones. Nothing is asked, and no
    key is needed. Prices given are those in a batch. Several teachers get a file each.

    \b
    Example:
      lema batch export paths.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --out requests
    """
    from lema_local.cli.teachers import correct_settings
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records
    from lema_local.prompts import load_correction_prompt
    from lema_local.records import ReasoningPath
    from lema_local.stages.correct import correct_mistakes, select_mistakes
    from lema_local.teachers import prompt_for
    from lema_local.teachers.scheduler import DeskSettings
    from lema_local.teamwork import share_mistakes

    settings = correct_settings(flags)
    prompt = load_correction_prompt(flags["prompt"])
    teachers = read_teachers(flags)
    export = _Export(out, flags, DeskSettings.from_stage(settings))
    mistakes = list(
        select_mistakes(read_records(paths, ReasoningPath), load_questions(flags["questions"]), settings)
    )

    def make(desk: TeacherDesk, asked_as: TeacherSettings, mine: list[Mistake]) -> Iterable[Correction]:
        return correct_mistakes(mine, desk, prompt_for(desk, prompt), settings, asked_as)

    for asked_as, mine in zip(teachers, share_mistakes(mistakes, teachers), strict=True):
        export.add(asked_as, mine, make)
    export.write("mistake", len(mistakes))


export_command.params += [param for param in correct.params if param.name not in _ONLINE]


@batch.command("export-augment")
@click.argument("questions", metavar="QUESTIONS")
@export_options
def export_augment_command(questions: str, out: Path, **flags: Any) -> None:
    """Write the requests for further rationales of QUESTIONS that the journal has no reply to.

    As `lema batch export`, with the options of `lema augment`.

    \b
    Example:
      lema batch export-augment gsm8k:train.jsonl --teacher gpt-4o --count 4 --out requests
    """
    from lema_local.datasets import load_questions
    from lema_local.prompts import load_cot_prompt
    from lema_local.stages.augment import AugmentSettings, augment_rationales
    from lema_local.teachers.scheduler import DeskSettings
    from lema_local.teamwork import share_questions

    names = AugmentSettings.model_fields.keys() & flags.keys()
    settings = AugmentSettings.model_validate({name: flags[name] for name in names})
    prompt = load_cot_prompt(flags["prompt"])
    teachers = [one for one in read_teachers(flags) if one.model != "reference"] or read_teachers(flags)
    export = _Export(out, flags, DeskSettings.from_stage(settings))
    asked = load_questions(questions, limit=settings.limit)

    def make(desk: TeacherDesk, asked_as: TeacherSettings, mine: list[Question]) -> Iterable[Rationale]:
        return augment_rationales(mine, desk, prompt, settings, asked_as)

    for asked_as, mine in zip(teachers, share_questions(asked, teachers), strict=True):
        export.add(asked_as, mine, make)
    export.write("rationale", len(asked) * settings.rationales_per_question)


export_augment_command.params += [
    param for param in augment.params if param.name not in _ONLINE | {"questions"}
]


class _Export:
    """What several teachers are to be asked, until all of it is known: then the files are written.

    Args:
        out: The file; of several teachers each has its own, with its number.
        flags: The command's.
        settings: How calls would be made online.
    """

    def __init__(self, out: Path, flags: dict[str, Any], settings: DeskSettings) -> None:
        from lema_local.teachers.offline import go_offline

        self._out = out
        self._flags = flags
        self._settings = settings
        self._asked: list[tuple[LiteLLMTeacher, dict[str, TeacherRequest]]] = []
        self._known = 0
        self._is_of_several = len(flags["teachers"]) > 1
        if flags["offline"]:
            go_offline(*(one.url for one in read_teachers(flags)))

    def add(
        self,
        asked_as: TeacherSettings,
        mine: list[Item],
        make: Callable[[TeacherDesk, TeacherSettings, list[Item]], Iterable[Correction | Rationale]],
    ) -> None:
        """Note the requests about its share that a teacher would be asked and the journal has no reply to."""
        from lema_local.teachers import needs_no_endpoint, open_desk
        from lema_local.teachers.journal import Journal

        if self._is_of_several and needs_no_endpoint(asked_as.model):
            notice(f"{asked_as.model} answers at once and free of charge: it has no part in a batch")
            return
        teacher = _open_teacher(asked_as.model, asked_as.url, self._flags, needs_key=False)
        needed: dict[str, TeacherRequest] = {}
        with (
            Journal() as journal,
            open_desk(teacher, journal, self._settings, scope="", collect=needed.__setitem__) as desk,
        ):
            self._known += sum(one.verdict != "failed" for one in make(desk, asked_as, mine))
        self._asked.append((teacher, needed))

    def write(self, noun: str, total: int) -> None:
        """Write the files and say what stands in them."""
        from lema_local.teachers.batch_files import numbered

        waiting = 0
        told: list[dict[str, Any]] = []
        with _open_book() as (_, book):
            for number, (teacher, needed) in enumerate(self._asked, 1):
                out = numbered(self._out, number) if self._is_of_several else self._out
                found = book.find_out(list(needed))
                waiting += len(found)
                asked = ((key, request) for key, request in needed.items() if key not in found)
                told += self._write_for(teacher, asked, out, book)
        if self._flags["is_json"]:
            counts = {f"{noun}s": total, "from_journal": self._known, "in_batch": waiting}
            click.echo(json.dumps({**counts, "files": told}))
            return
        click.echo(
            f"{total} {noun}s: {self._known} have their reply in the journal, {waiting} requests are out in a batch"
        )
        for one in told:
            click.echo(f"{one['items']} requests, at most ${one['open_usd']:.4f}: {one['file']}")
        if not told:
            click.echo("nothing is left to ask")

    def _write_for(
        self, teacher: LiteLLMTeacher, asked: Iterable[tuple[str, TeacherRequest]], out: Path, book: BatchBook
    ) -> list[dict[str, Any]]:
        from lema_local.teachers.batch_files import write_batches

        limits = _limits(teacher.provider, self._flags)
        where = str(self._out.resolve())
        batches = write_batches(asked, teacher, book, out, limits, scope=where, price=teacher.batch_price())
        return [{"file": str(one.requests_path), **asdict(book.count(one.batch_id))} for one in batches]


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

    if needs_no_endpoint(name):
        raise InputError(f"{name} answers at once and free of charge", hint="lema correct")
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
