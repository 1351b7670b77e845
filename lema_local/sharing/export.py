"""A run's corrections as a hub-ready folder.

Reads   RUN        recipe, questions, corrections as the filter left them, manifests, grades
Writes  FOLDER     corrections/*.parquet, questions/*.parquet, README.md (the data card), recipe.yaml,
                   contamination.json, lema_dataset.json

The folder is written under another name and gets its own at the end: it is whole or not there.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from lema_local.contamination import KINDS, Certificate, Hit, Kind, Text, find_hits
from lema_local.errors import BackendUnavailable, InputError, RunStateError
from lema_local.grades import GRADES_FILE, GradeBook
from lema_local.jsonl import read_records, told_disk_errors
from lema_local.recipe import Recipe, load_recipe
from lema_local.records import Correction, Question
from lema_local.runs import Manifest, RunFolder, fingerprint, hash_file, write_text
from lema_local.sharing.licences import SourceLicence, TeacherTerms, find_licences, find_terms
from lema_local.sharing.privacy import mask_row, public_name, public_recipe
from lema_local.sharing.schema import (
    COLUMNS,
    QUESTION_COLUMNS,
    SOURCE_TEXT,
    VERSION,
    Column,
    Row,
    correction_to_row,
    question_to_row,
)
from lema_local.stage_runner import STAGES

FACTS_FILE = "lema_dataset.json"
CERTIFICATE_FILE = "contamination.json"
RECIPE_FILE = "recipe.yaml"
RECIPE_HEAD = (
    "# The recipe of these corrections, in full. Paths are names of files; addresses are left out.\n"
)
MAX_HITS = 1000
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What goes into the folder."""

    licence: str | None = None
    """Under which the folder is shared, and the licence of questions whose own is not known."""
    teacher_terms: str | None = None
    """What to say of the teachers' terms, instead of naming the provider alone."""
    has_rejected: bool = False
    """The rejected corrections too, as a split of their own."""
    has_question_text: bool = True
    """False: ids only, where the source's licence forbids to share its text."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What is said of the folder: `lema_dataset.json`, and what its card shows."""

    name: str
    version: int
    splits: dict[str, int]
    """Corrections by split: `train` (accepted), `rejected`."""
    questions: int
    """Rows of the table of questions; 0: there is none."""
    has_question_text: bool
    counts: list[dict[str, Any]]
    """Corrections by dataset, teacher, the name it gave itself, and verdict; failed ones too."""
    checks: dict[str, tuple[int, int]]
    """Check: (passed, made), over accepted and rejected ones."""
    grades: dict[str, int]
    """Reviewers' grades of what is in the folder."""
    reviewers: int
    licences: list[SourceLicence]
    licence: str | None
    terms: list[TeacherTerms]
    prompts: list[dict[str, str]]
    """Name and fingerprint of each prompt that was used, and what for."""
    filter: dict[str, Any]
    """The filter's settings."""
    asked: dict[str, int]
    """How the teachers were asked, and how often."""
    certificate: Certificate | None
    """None: the run has no test questions to check against."""
    masked: int = 0
    """Rows in which something that looks like a key was masked."""


@dataclass(slots=True)
class _Run:
    """What is read of a run."""

    recipe: Recipe
    questions: dict[str, Question]
    test: list[Question]
    accepted: list[Correction]
    rejected: list[Correction]
    manifests: dict[str, Manifest | None] = field(default_factory=dict)


def export_run(run: RunFolder, folder: Path, settings: ExportSettings) -> Shared:
    """Write a run's corrections as a hub-ready folder and return what is said of it.

    Raises:
        InputError: If the folder is not empty, a licence is not known, or nothing was accepted.
        RunStateError: If the run has not come to its filter.
        BackendUnavailable: If `datasets` is not installed.
    """
    from lema_local.sharing.card import write_card

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty", hint="name a new folder with --out")
    found = _read_run(run)
    kept, certificate = _leave_out_contaminated(found)
    used = list(dict.fromkeys(one.question_id for one in kept.accepted + kept.rejected))
    licences = find_licences([kept.questions[one].dataset for one in used], settings.licence)
    partial = folder.with_name(folder.name + ".partial")
    with told_disk_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    masked = _write_tables(partial, kept, settings)
    if certificate is not None:
        path = partial / "corrections" / _file_name("train")
        certificate = certificate.model_copy(update={"sha256": hash_file(path)})
        write_text(partial / CERTIFICATE_FILE, certificate.model_dump_json(indent=2) + "\n")
    shared = _describe(run, kept, settings, licences, certificate, masked)
    write_text(partial / FACTS_FILE, json.dumps(_to_json(shared), indent=2, ensure_ascii=False) + "\n")
    write_text(partial / RECIPE_FILE, _dump_recipe(kept.recipe))
    write_card(partial, shared)
    with told_disk_errors(folder):
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    return shared


def list_folder(folder: Path) -> dict[str, Path]:
    """Return the files of an exported folder, by their names in a repository.

    Raises:
        InputError: If it is none that was exported.
    """
    missing = [name for name in (FACTS_FILE, "README.md") if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} cannot be published: it has no {', '.join(missing)}",
            hint="give a folder that lema dataset export wrote",
        )
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


# --- reading the run ----------------------------------------------------------------------------------------


def _read_run(run: RunFolder) -> _Run:
    if not run.recipe_path.is_file():
        raise RunStateError(f"{run.path} holds no run", hint="name a folder that lema run made")
    stages = {name: run.stage(folder) for name, folder in STAGES.items()}
    manifests = {name: stage.manifest() for name, stage in stages.items()}
    if manifests["filter"] is None:
        raise RunStateError(
            f"{run.path} has not come to its filter: nothing is accepted yet",
            hint=f"lema run {run.recipe_path} --run {run.path} --until filter",
        )
    rounds = [run, *_later_rounds(run)]
    found = _Run(
        load_recipe(run.recipe_path),
        {one.id: one for some in rounds for one in _read(some, "questions", "train", Question)},
        _read(run, "questions", "test", Question),
        [one for some in rounds for one in _read(some, "filter", "accepted", Correction)],
        [one for some in rounds for one in _read(some, "filter", "rejected", Correction)],
        manifests,
    )
    if not found.accepted:
        raise InputError(
            f"{run.path} has no accepted corrections to share",
            hint=f"lema report {run.path} says why they were rejected",
        )
    return found


def _later_rounds(run: RunFolder) -> list[RunFolder]:
    """Return the folders `round_2`, `round_3`, ... that have come to their filter, in order."""
    named = {
        int(number): RunFolder(path)
        for path in run.path.glob("round_*")
        if (number := path.name.removeprefix("round_")).isdecimal()
    }
    return [named[number] for number in sorted(named) if named[number].stage(STAGES["filter"]).manifest()]


def _read(run: RunFolder, stage: str, name: str, kind: type[T]) -> list[T]:
    return read_records(run.stage(STAGES[stage]).path / f"{name}.jsonl", kind)


def _leave_out_contaminated(found: _Run) -> tuple[_Run, Certificate | None]:
    """Return the run without the questions that share their text with a test question, as `build` leaves them out."""
    if not found.test:
        return found, None
    corrections = found.accepted + found.rejected
    own = {one.question_id for one in corrections}
    hits = find_hits(_list_texts(found.questions.values(), corrections), found.test)
    block = found.recipe.build
    removing: list[Kind] = [] if block.allow_test else list(block.remove_contaminated)
    left_out = {hit.question_id for hit in hits if hit.kind in removing}
    hits = [hit for hit in hits if hit.question_id in own]
    kept = _Run(
        found.recipe,
        {key: one for key, one in found.questions.items() if key not in left_out},
        found.test,
        [one for one in found.accepted if one.question_id not in left_out],
        [one for one in found.rejected if one.question_id not in left_out],
        found.manifests,
    )
    certificate = Certificate(
        file=f"corrections/{_file_name('train')}",
        sha256="",
        examples=len(kept.accepted),
        questions=len({one.question_id for one in kept.accepted}),
        test_sets=dict(Counter(f"{one.dataset}/{one.split}" for one in found.test)),
        test_sha256=fingerprint({one.id: one.question for one in found.test}),
        removing=removing,
        removed_examples=len(found.accepted) - len(kept.accepted),
        removed_questions=len(own & left_out),
        found=_count_kinds(hits),
        left=_count_kinds(hit for hit in hits if hit.question_id not in left_out),
        hits=hits[:MAX_HITS],
    )
    return kept, certificate


def _list_texts(questions: Iterable[Question], corrections: Iterable[Correction]) -> Iterable[Text]:
    yield from (Text(one.id, "question", one.question) for one in questions)
    for one in corrections:
        yield Text(one.question_id, "completion", f"{one.explanation or ''}\n{one.corrected_solution or ''}")


def _count_kinds(hits: Iterable[Hit]) -> dict[Kind, int]:
    by_kind: dict[Kind, set[str]] = {kind: set() for kind in KINDS}
    for hit in hits:
        by_kind[hit.kind].add(hit.question_id)
    return {kind: len(ids) for kind, ids in by_kind.items()}


# --- describing ---------------------------------------------------------------------------------------------


def _describe(
    run: RunFolder,
    kept: _Run,
    settings: ExportSettings,
    licences: list[SourceLicence],
    certificate: Certificate | None,
    masked: int,
) -> Shared:
    judged = [one for one in kept.accepted + kept.rejected if one.verdict != "failed"]
    in_folder = [*kept.accepted, *(_rejected(kept) if settings.has_rejected else [])]
    grades, reviewers = _read_grades(run, in_folder)
    teachers = list(dict.fromkeys(one.teacher for one in in_folder))
    block = kept.recipe.teacher
    asked = [*block.members, *filter(None, [block.fallback])]
    with_url = {one.model for one in asked if one.url is not None}
    return Shared(
        name=kept.recipe.name,
        version=VERSION,
        splits={split: len(some) for split, some in _splits(kept, settings).items()},
        questions=len(kept.questions) if settings.has_question_text else 0,
        has_question_text=settings.has_question_text,
        counts=_count(kept),
        checks=_count_checks(judged),
        grades=grades,
        reviewers=reviewers,
        licences=licences,
        licence=settings.licence,
        terms=[
            find_terms(public_name(one), has_url=one in with_url, told=settings.teacher_terms)
            for one in teachers
        ],
        prompts=list(_find_prompts(kept)),
        filter=kept.recipe.filter.model_dump(mode="json", exclude={"grades"}),
        asked=dict(Counter(_word_asking(one) for one in in_folder)),
        certificate=certificate,
        masked=masked,
    )


def _rejected(kept: _Run) -> list[Correction]:
    """The rejected corrections; a failed one has no words to share."""
    return [one for one in kept.rejected if one.verdict == "rejected"]


def _splits(kept: _Run, settings: ExportSettings) -> dict[str, list[Correction]]:
    rejected = _rejected(kept) if settings.has_rejected else []
    return {"train": kept.accepted, **({"rejected": rejected} if rejected else {})}


def _count(kept: _Run) -> list[dict[str, Any]]:
    counts = Counter(
        (kept.questions[one.question_id].dataset, public_name(one.teacher), one.teacher_reported, one.verdict)
        for one in kept.accepted + kept.rejected
    )
    names = ("dataset", "teacher", "teacher_reported", "verdict")
    return [{**dict(zip(names, key, strict=True)), "corrections": count} for key, count in counts.items()]


def _count_checks(judged: Iterable[Correction]) -> dict[str, tuple[int, int]]:
    passed, made = Counter[str](), Counter[str]()
    for one in judged:
        made.update(one.checks)
        passed.update(name for name, is_passed in one.checks.items() if is_passed)
    return {name: (passed[name], made[name]) for name in made}


def _read_grades(run: RunFolder, corrections: Sequence[Correction]) -> tuple[dict[str, int], int]:
    """Return grades by word, and how many people gave them; who they are stays here."""
    from lema_local.grades import correction_id

    path = run.path / GRADES_FILE
    if not path.is_file():
        return {}, 0
    ids = {correction_id(one) for one in corrections}
    given = [one for one in GradeBook(path).current() if one.mark != "skip" and one.correction_id in ids]
    return dict(Counter(one.mark for one in given)), len({one.reviewer for one in given})


def _find_prompts(kept: _Run) -> Iterable[dict[str, str]]:
    """Yield the prompts that were used, with the fingerprints that the manifests keep."""
    recipe = kept.recipe
    named = {
        "sample": ("to sample the mistakes", recipe.sample.prompt),
        "correct": ("to ask for corrections", recipe.correct.prompt),
    }
    for stage, (use, name) in named.items():
        manifest = kept.manifests.get(stage)
        mark = manifest.made_from.get("prompt") if manifest else None
        if isinstance(mark, str):
            shown = Path(name).name
            yield {"use": use, "name": shown, "fingerprint": mark}


def _word_asking(one: Correction) -> str:
    told = {name: value for name, value in one.asked.items() if not name.endswith(("_key", "_step"))}
    return ", ".join(f"{name}={value}" for name, value in sorted(told.items())) or "the usual way"


def _to_json(shared: Shared) -> dict[str, Any]:
    values = asdict(shared)
    values["certificate"] = CERTIFICATE_FILE if shared.certificate else None
    return {"made_by": "lema-local", **values, "columns": [asdict(column) for column in COLUMNS]}


def _dump_recipe(recipe: Recipe) -> str:
    import yaml

    values = public_recipe(recipe.model_dump(mode="json"))
    return RECIPE_HEAD + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


# --- tables -------------------------------------------------------------------------------------------------


def _write_tables(folder: Path, kept: _Run, settings: ExportSettings) -> int:
    """Write the Parquet files; return in how many rows something was masked."""
    masked = 0
    for split, some in _splits(kept, settings).items():
        rows = [_to_row(one, kept.questions[one.question_id], settings) for one in some]
        clean = [mask_row(row) for row in rows]
        masked += sum(one is not other for one, other in zip(rows, clean, strict=True))
        _write_table(folder / "corrections" / _file_name(split), clean, COLUMNS)
    if settings.has_question_text:
        rows = [mask_row(question_to_row(one)) for one in kept.questions.values()]
        _write_table(folder / "questions" / _file_name("train"), rows, QUESTION_COLUMNS)
    return masked


def _to_row(correction: Correction, question: Question, settings: ExportSettings) -> Row:
    row = correction_to_row(correction, question)
    row |= {"student": public_name(correction.student), "teacher": public_name(correction.teacher)}
    return row if settings.has_question_text else row | dict.fromkeys(SOURCE_TEXT)


def _file_name(split: str) -> str:
    """As the hub names a split that is one file."""
    return f"{split}-00000-of-00001.parquet"


def _write_table(path: Path, rows: Sequence[Row], columns: Sequence[Column]) -> None:
    datasets = import_datasets(f"writing {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({column.name: _feature(datasets, column) for column in columns})
    with told_disk_errors(path):
        # By column: a list of rows is read by its first one, which may lack what others have.
        table = {column.name: [row[column.name] for row in rows] for column in columns}
        datasets.Dataset.from_dict(table, features=features).to_parquet(str(path))


def _feature(datasets: Any, column: Column) -> Any:
    from lema_local.corrections import CHECKS

    if column.type == "checks":
        return {name: datasets.Value("bool") for name in CHECKS}
    return (
        datasets.List(datasets.Value("string")) if column.type == "strings" else datasets.Value(column.type)
    )


def import_datasets(what: str) -> Any:
    """Return the module `datasets`, its progress bars off.

    Raises:
        BackendUnavailable: If it is not installed.
    """
    try:
        import datasets
    except ImportError as err:
        raise BackendUnavailable(
            f"{what} needs the package 'datasets', which is not installed",
            hint="pip install 'lema-local[train]'",
        ) from err
    datasets.disable_progress_bars()
    return datasets


def describe_filter(settings: Mapping[str, Any]) -> str:
    """Return the filter's settings as a sentence."""
    told = ["kept where the corrected solution ends with the gold answer"]
    if settings.get("rejecting_checks"):
        told.append(f"and where it passes {', '.join(settings['rejecting_checks'])}")
    if settings.get("drop_duplicates"):
        told.append("one of those with the same equations")
    if settings.get("drop_graded"):
        told.append(f"none that a reviewer graded {', '.join(settings['drop_graded'])}")
    return "; ".join(told)
