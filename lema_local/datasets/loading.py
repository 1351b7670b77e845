"""Questions from a spec: a project file, a dataset's released file, a hub name, or the user's own file."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lema_local.answers.grading import find_gold_problem
from lema_local.answers.numbers import parse_number
from lema_local.answers.surface import clean_answer
from lema_local.answers.symbolic import map_answers
from lema_local.datasets.base import Dataset, HubSource, RowProblem
from lema_local.datasets.files import Placed, iterate_rows
from lema_local.datasets.own import FIELDS, convert_own
from lema_local.datasets.problem_files import is_tar, iterate_problem_files
from lema_local.datasets.table import DATASETS
from lema_local.errors import BackendUnavailable, InputError
from lema_local.jsonl import describe_problems, describe_validation, read_quickly
from lema_local.records import Question

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spec:
    """A spec taken apart."""

    dataset: str | None
    """A name of the table, `own`, or None for a file in the project's form."""
    path: Path | None
    """None: from the hub."""
    split: str | None


def parse_spec(spec: str) -> Spec:
    """Take apart `gsm8k:PATH@SPLIT`, `own:FILE`, `gsm8k`, `gsm8k@test` or a path.

    Raises:
        InputError: If it names no known dataset and no file.
    """
    name, colon, rest = spec.partition(":")
    if colon and name in (*DATASETS, "own"):
        path, split = _cut_split(rest)
        return Spec(name, Path(path).expanduser(), split)
    if Path(spec).expanduser().exists():
        return Spec(None, Path(spec).expanduser(), None)
    bare, split = _cut_split(spec)
    if bare in DATASETS:
        return Spec(bare, None, split)
    if split is not None and Path(bare).expanduser().exists():
        return Spec(None, Path(bare).expanduser(), split)
    near = difflib.get_close_matches(name if colon else bare, (*DATASETS, "own"), n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    raise InputError(
        f"no such question file or dataset: {spec}",
        hint=f"{meant}a JSON Lines file, own:FILE, or one of {', '.join(DATASETS)} with :PATH behind it",
    )


def check_spec(spec: str) -> None:
    """Make sure that a spec names a known dataset and a split of it, without opening anything.

    Raises:
        InputError: If it does not.
    """
    parsed = parse_spec(spec)
    if parsed.dataset in DATASETS:
        _check_split(DATASETS[parsed.dataset], parsed.split)


def _check_split(dataset: Dataset, split: str | None) -> None:
    if split is not None and split not in dataset.splits:
        raise InputError(
            f"{dataset.name} has no split '{split}'", hint=f"its splits: {', '.join(dataset.splits)}"
        )


def _cut_split(text: str) -> tuple[str, str | None]:
    """Cut `@SPLIT` off; an `@` in a path that exists belongs to the path."""
    match = re.fullmatch(r"(.*)@([\w-]+)", text)
    if match is None or Path(text).expanduser().exists():
        return text, None
    return match[1], match[2]


def load_questions(
    spec: str, *, mapping: Mapping[str, str] | None = None, limit: int | None = None
) -> list[Question]:
    """Return the questions that a spec names, in their order, the first `limit` of them.

    Args:
        spec: A JSON Lines file in the project's form; `gsm8k:PATH[@SPLIT]` (also math, math500, svamp, asdiv,
            csqa, aqua, mawps) for a dataset's released form, a file or its folder; `own:FILE` for JSON Lines or
            CSV of the user; a dataset's bare name for the hub.
        mapping: For `own:`: our field's name to the file's (`question`, `gold_answer`, `gold_rationale`,
            `choices`, `id`, `split`).
        limit: None for all.

    Raises:
        InputError: If the spec, the file or lines of it are wrong: up to 20 are named, the rest counted.
        BackendUnavailable: If the hub cannot be reached.
    """
    parsed = parse_spec(spec)
    if mapping and parsed.dataset != "own":
        raise InputError(
            f"a field mapping goes with own:FILE, not with {spec}", hint=f"own:{parsed.path or 'FILE'}"
        )
    if parsed.dataset is None:
        assert parsed.path is not None
        questions = read_questions(parsed.path)
        if parsed.split:
            questions = _choose_split(questions, parsed.split, parsed.path)
    elif parsed.dataset == "own":
        questions = _load_own(parsed, mapping or {})
    else:
        questions = _load_dataset(DATASETS[parsed.dataset], parsed)
    return questions if limit is None else questions[:limit]


def parse_mapping(text: str | None) -> dict[str, str] | None:
    """Return the mapping that `--map question=problem,gold_answer=answer` writes; None for None.

    Raises:
        InputError: If it is not of that form.
    """
    if text is None:
        return None
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if not pairs or any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
        raise InputError(
            f"cannot read the mapping '{text}'", hint="--map question=problem,gold_answer=answer"
        )
    return {name.strip(): field.strip() for name, field in pairs}


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a JSON Lines file in the project's form.

    Raises:
        InputError: If it cannot be read, is empty, has malformed lines, repeated ids, or gold answers that do
            not parse.
    """
    problems: list[str] = []
    placed = []
    if path.suffix == ".jsonl" and (quick := read_quickly(path, Question)) is not None:
        placed = [(f"line {number}", question) for number, question in enumerate(quick, 1)]
    else:
        for place, row in iterate_rows(path, problems):
            try:
                placed.append((place, Question.model_validate(row)))
            except ValidationError as err:
                problems.append(f"{place}: {describe_validation(err)}")
    return _finish(
        path, placed, problems, hint="one Question a line; other forms: own:FILE with --map, or gsm8k:PATH"
    )


def _choose_split(questions: list[Question], split: str, path: Path) -> list[Question]:
    chosen = [question for question in questions if question.split == split]
    if not chosen:
        known = ", ".join(sorted({question.split for question in questions}))
        raise InputError(f"{path} has no split '{split}'", hint=f"it has: {known}")
    return chosen


def _load_own(spec: Spec, mapping: Mapping[str, str]) -> list[Question]:
    unknown = [name for name in mapping if name not in FIELDS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], FIELDS, n=1)
        meant = f" (did you mean '{near[0]}'?)" if near else ""
        raise InputError(
            f"unknown field '{unknown[0]}' in the mapping{meant}", hint=f"known: {', '.join(FIELDS)}"
        )
    assert spec.path is not None
    dataset = re.sub(r"[^\w.-]+", "-", spec.path.stem) or "own"
    split = spec.split or guess_split(spec.path, ("train", "validation", "dev", "test")) or "train"
    problems: list[str] = []
    placed = []
    for position, (place, row) in enumerate(iterate_rows(spec.path, problems)):
        try:
            placed.append((place, convert_own(row, dataset, split, position, mapping)))
        except RowProblem as err:
            problems.append(f"{place}: {err}")
    hint = "say which fields to read: --map question=FIELD,gold_answer=FIELD[,gold_rationale=FIELD]"
    return _finish(spec.path, placed, problems, hint=hint)


def _load_dataset(dataset: Dataset, spec: Spec) -> list[Question]:
    _check_split(dataset, spec.split)
    if spec.path is None:
        split = spec.split or next(iter(dataset.hub.splits if dataset.hub else dataset.splits))
        return _load_hub(dataset, dataset.hub, split)
    return [
        question
        for split, path in find_files(dataset, spec.path, spec.split)
        for question in _load_file(dataset, split, path)
    ]


def find_files(dataset: Dataset, path: Path, split: str | None) -> list[tuple[str, Path]]:
    """Return (split, file) of a released file or of a folder that holds such files.

    Raises:
        InputError: If there is none, or the split cannot be told from the name.
    """
    if path.is_dir():
        wanted = [split] if split else list(dataset.splits)
        found = [(name, file) for name in wanted if (file := _find_in_folder(dataset, path, name))]
        if split is None and len(found) > 1 and dataset.name != "mawps":
            names = ", ".join(name for name, _ in found)
            raise InputError(
                f"{path} holds several splits of {dataset.name}: {names}",
                hint=f"say which: {dataset.name}:{path}@{found[0][0]}",
            )
        if not found and (own := split or guess_split(path, tuple(dataset.splits))) == path.name:
            return [(own, path)]
        if not found:
            raise InputError(f"{path} holds no file of {dataset.name}", hint="give the file itself")
        return found
    known = split or guess_split(path, tuple(dataset.splits))
    if known is None and len(dataset.splits) == 1:
        known = next(iter(dataset.splits))
    if known is None:
        raise InputError(
            f"cannot tell from its name which split of {dataset.name} {path} is",
            hint=f"say which: {dataset.name}:{path}@{next(iter(dataset.splits))}",
        )
    return [(known, path)]


def _find_in_folder(dataset: Dataset, folder: Path, split: str) -> Path | None:
    names = (*dataset.files.get(split, ()), f"{split}.jsonl", f"{split}.json")
    files = (folder / name for name in names if (folder / name).is_file())
    return next(files, folder / split if (folder / split).is_dir() else None)


def guess_split(path: Path, splits: tuple[str, ...]) -> str | None:
    """Return the split that a file's name tells; None where it tells none."""
    words = re.split(r"[^a-z0-9]+", path.stem.lower())
    return next((split for split in splits if split in words), None)


def _load_file(dataset: Dataset, split: str, path: Path) -> list[Question]:
    problems: list[str] = []
    if path.is_dir() or is_tar(path):
        rows = iterate_problem_files(path, split, problems)
    else:
        rows = iterate_rows(path, problems)
    return _convert(dataset, split, rows, problems, path)


def _convert(
    dataset: Dataset, split: str, rows: Iterable[Placed], problems: list[str], where: Path | str
) -> list[Question]:
    """Return the rows as questions, and say how many that is where it is not what was published.

    Raises:
        InputError: With what is wrong with the rows, besides the `problems` there are already.
    """
    placed, left_out = [], 0
    for position, (place, row) in enumerate(rows):
        try:
            question = dataset.convert(row, split, position)
        except RowProblem as err:
            problems.append(f"{place}: {err}")
            continue
        if question is None:
            left_out += 1
        else:
            placed.append((place, question))
    hint = f"lema dataset show {dataset.name} tells the form"
    questions = _finish(where, placed, problems, hint=hint, dataset=dataset)
    _tell_size(dataset, split, len(questions), left_out, where)
    return questions


def _tell_size(dataset: Dataset, split: str, kept: int, left_out: int, where: Path | str) -> None:
    published = dataset.splits[split]
    if published not in (kept, kept + left_out):
        _LOG.warning(
            "%s has %d questions; the published %s/%s has %d", where, kept, dataset.name, split, published
        )
    if left_out:
        _LOG.warning(
            "%s: %d of %d records left out, %s", where, left_out, kept + left_out, dataset.leaves_out
        )


def _load_hub(dataset: Dataset, hub: HubSource | None, split: str) -> list[Question]:
    if hub is None or split not in hub.splits:
        raise InputError(
            f"{dataset.name}@{split} is not on the hub", hint=f"{dataset.name}:PATH; see {dataset.source}"
        )
    rows = (
        (f"row {number}", row)
        for number, row in enumerate(
            (row for config in hub.configs for row in _fetch_rows(hub.repo, config, hub.splits[split])),
            1,
        )
    )
    return _convert(dataset, split, rows, [], hub.repo)


def _fetch_rows(repo: str, config: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dataset on the hub, fetched once and then from the cache.

    Raises:
        BackendUnavailable: If `datasets` is not installed or the hub cannot be reached.
    """
    try:
        import datasets
    except ImportError as err:
        raise BackendUnavailable(
            f"reading {repo} from the hub needs the package 'datasets'",
            hint="pip install 'lema-local[train]'",
        ) from err
    try:
        rows = datasets.load_dataset(repo, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as err:
        raise BackendUnavailable(
            f"cannot fetch {repo} from the hub: {str(err).splitlines()[0] if str(err) else type(err).__name__}",
            hint="go online, or give the released file: NAME:PATH",
        ) from err
    yield from rows


def _finish(
    where: Path | str,
    placed: list[tuple[str, Question]],
    problems: list[str],
    *,
    hint: str,
    dataset: Dataset | None = None,
) -> list[Question]:
    """Return the questions if nothing is wrong with them; else say everything that is."""
    if not placed and not problems:
        raise InputError(f"{where} has no questions", hint="check that it is the right file")
    _find_duplicates(placed, problems)
    doubtful = [one for one in placed if not _is_plain(one[1])]
    found = map_answers(lambda one: _check(one[1], dataset), doubtful)
    problems += [
        f"{place}: {problem}" for (place, _), problem in zip(doubtful, found, strict=True) if problem
    ]
    if problems:
        raise InputError(describe_problems(where, problems), hint=hint)
    return [question for _, question in placed]


def _find_duplicates(placed: list[tuple[str, Question]], problems: list[str]) -> None:
    if len({question.id for _, question in placed}) == len(placed):
        return
    first: dict[str, str] = {}
    for place, question in placed:
        if question.id in first:
            problems.append(f"{place}: the id '{question.id}' stands at {first[question.id]} already")
        else:
            first[question.id] = place


def _is_plain(question: Question) -> bool:
    """Return whether nothing can be wrong with a question: its gold answer is an ordinary whole number."""
    gold = question.gold_answer
    is_whole = len(gold) < 16 and gold.isascii() and gold.isdecimal()
    return is_whole and question.choices is None and bool(question.id.strip() and question.question.strip())


def _check(question: Question, dataset: Dataset | None) -> str | None:
    """Return what is wrong with a question; released expressions are left to `lema dataset check`."""
    if not question.question.strip():
        return "the question is empty"
    if not question.id.strip():
        return "the id is empty"
    if dataset is None or dataset.answer_kind == "choice":
        return find_gold_problem(question)
    if dataset.answer_kind == "number" and parse_number(clean_answer(question.gold_answer)) is None:
        return f"the gold answer {question.gold_answer!r} is no number"
    return None
