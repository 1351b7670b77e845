"""From a recipe to the things it names: questions, student, teacher, trainer. Opened late, closed early."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lema_local.datasets import load_questions
from lema_local.errors import InputError
from lema_local.prompts import CotPrompt
from lema_local.recipe import QuestionSource, Recipe, StudentBlock, TeacherBlock
from lema_local.records import Question
from lema_local.runs import RunFolder, StageFolder, hash_file
from lema_local.teachers import IN_PROCESS

if TYPE_CHECKING:
    from lema_local.students.base import PromptStyle, Student
    from lema_local.teachers.settings import CallBlock, TeacherSettings
    from lema_local.teachers.team import Team
    from lema_local.training.base import Trainer

EMBEDDED = "quickstart"
REFERENCE = "reference"
EXPORTED = ("adapter.gguf", "model.gguf")
"""What the stage `export` leaves of an arm: an adapter over the student's GGUF, or a GGUF of its own."""


def load_source(source: QuestionSource) -> list[Question]:
    """Return the questions of a source.

    Raises:
        InputError: If the source, its file or lines of it are wrong.
    """
    dataset, _, split = source.source.partition("@")
    if dataset != EMBEDDED:
        return load_questions(source.source, mapping=source.map or None, limit=source.limit)
    return _generate(source, split)


def _generate(source: QuestionSource, split: str) -> list[Question]:
    """Return embedded problems."""
    from lema_local.quickstart.problems import generate_questions

    if source.limit is None:
        raise InputError(f"{source.source}: how many problems?", hint="give the source a `limit`")
    try:
        made = generate_questions(split, source.limit, source.seed, mix=source.mix or None)  # type: ignore[arg-type]
        return [Question.model_validate(one) for one in made]
    except ValueError as err:
        raise InputError(f"{source.source}: {err}") from err


def student_file(block: StudentBlock) -> str:
    """Return the student as a file or hub name: `quickstart` is the embedded GGUF."""
    if block.model == EMBEDDED and block.url is None:
        return str(files("lema_local.quickstart") / "student.gguf")
    return block.model


def student_identity(block: StudentBlock) -> dict[str, Any]:
    """Return what names a student in a fingerprint: its file's hash, or its name and endpoint."""
    if block.url is not None:
        return {"model": block.model, "url": block.url, "prompt_style": block.prompt_style}
    cells = {} if block.kv_type == "f16" else {"kv_type": block.kv_type}
    return {"sha256": hash_file(student_path(block)), "prompt_style": block.prompt_style, **cells}


def student_path(block: StudentBlock) -> Path:
    """Return the student's GGUF file, fetched from the hub first where it is named so."""
    from lema_local.students import resolve_model_file

    return resolve_model_file(student_file(block))


def open_run_student(
    block: StudentBlock,
    *,
    adapter: Path | Sequence[tuple[Path, float]] | None = None,
    chosen: dict[str, Any] | None = None,
    on_chosen: Callable[[dict[str, Any]], None] | None = None,
    name: str | None = None,
) -> Student:
    """Return the student, loaded.

    Args:
        block: Which one, and how it is run.
        adapter: A GGUF LoRA adapter over it, or several with their scales.
        chosen: What its engine chose at an earlier start, to be used again.
        on_chosen: Told what its engine chose, before anything is decoded.
        name: What its paths call it; None: the files' names.
    """
    from lema_local.students import open_student

    return open_student(
        student_file(block),
        url=block.url,
        adapter=adapter,
        prompt_style=block.prompt_style,
        options=block.engine,
        chosen=chosen,
        on_chosen=on_chosen,
        name=name,
    )


def with_exported(block: StudentBlock, exported: Path | None) -> tuple[StudentBlock, Path | None]:
    """Return (who is to be opened, the adapter over it) for an exported student; None: the student as it was."""
    if exported is None or exported.name != EXPORTED[1]:
        return block, exported
    return block.model_copy(update={"model": str(exported), "url": None}), None


class LentStudents:
    """Students that are sampled one after another: each is loaded when its turn comes, and closed after it.

    Args:
        blocks: Which ones.
        adapters: (path, scale) of GGUF LoRA adapters over each.
        chosen: What their engines chose at an earlier start, by `model`.
        on_chosen: Told what they have chosen so far, before anything is decoded.
        tell: Says one line to the user.
        name: What the paths of a single one call it; None: the files' names.
    """

    def __init__(
        self,
        blocks: Sequence[StudentBlock],
        *,
        adapters: Sequence[tuple[Path, float]] = (),
        chosen: Mapping[str, Any] | None = None,
        on_chosen: Callable[[dict[str, Any]], None],
        tell: Callable[[str], None],
        name: str | None = None,
    ) -> None:
        self._tell = tell
        self._name = name
        self._adapters = tuple(adapters)
        self._chosen = dict(chosen or {})
        self._on_chosen = on_chosen
        self.openers = [partial(self._lend, block) for block in blocks]
        """What lends them, in order."""
        self.described: dict[str, Any] = {}
        """What was loaded and chosen, by `model`."""

    @contextmanager
    def _lend(self, block: StudentBlock) -> Iterator[Student]:
        student = open_run_student(
            block,
            adapter=self._adapters,
            chosen=self._chosen.get(block.model),
            on_chosen=partial(self._keep, block.model),
            name=self._name,
        )
        try:
            if block.url is None and block.gpu_layers == 0:
                self._advise(student_path(block))
            yield student
            self.described[block.model] = student.describe()
        finally:
            student.close()

    def _advise(self, path: Path) -> None:
        from lema_local.students.inspection import advise_on_quantization

        if advice := advise_on_quantization(path):
            self._tell(advice)

    def _keep(self, model: str, chosen: dict[str, Any]) -> None:
        self._chosen[model] = chosen
        self._on_chosen(dict(self._chosen))


def teacher_identity(block: TeacherBlock) -> dict[str, Any]:
    """Return what names the teachers in a fingerprint, without asking anybody: what can change a correction."""
    first, *others = block.members
    identity = _identify(first)
    if others:
        identity |= {"weight": first.weight}
        identity["also"] = [{**_identify(one), "weight": one.weight} for one in others]
    if block.fallback is not None:
        identity["fallback"] = _identify(block.fallback)
    return identity


def _identify(one: TeacherSettings) -> dict[str, Any]:
    if one.model == REFERENCE:
        from lema_local.teachers.reference import ReferenceTeacher

        return {"model": REFERENCE, "version": ReferenceTeacher().identity}
    asked = one.model_dump(
        include={"temperature", "max_tokens", "reasoning_effort", "system_prompt"}, exclude_defaults=True
    )
    if one.model.startswith(IN_PROCESS):
        from lema_local.students import resolve_model_file

        return {"sha256": hash_file(resolve_model_file(one.model.removeprefix(IN_PROCESS))), **asked}
    return {"model": one.model, "url": one.url, **asked}


@contextmanager
def open_run_team(recipe: Recipe, settings: CallBlock, stage: StageFolder, root: RunFolder) -> Iterator[Team]:
    """Lend the recipe's teachers with journal, budget and scheduler.

    What they spend is booked for the stage; the caps hold over all stages and rounds of the run.
    """
    from lema_local.teachers.journal import Journal
    from lema_local.teachers.scheduler import DeskSettings
    from lema_local.teachers.team import Team

    block = recipe.teacher
    with (
        Journal() as journal,
        Team(
            block.members,
            block.fallback,
            journal,
            DeskSettings.from_stage(settings),
            scope=str(stage.path.resolve()),
            within=str(root.path.resolve()),
            max_usd=block.max_usd,
            max_calls=block.max_calls,
        ) as team,
    ):
        yield team


def open_trainer(block: StudentBlock) -> Trainer:
    """Return the trainer for this student's base."""
    from lema_local.training.local import LocalTrainer

    gguf = student_path(block)
    return LocalTrainer(block.base or gguf, gguf)


def base_identity(block: StudentBlock) -> dict[str, Any]:
    """Return what names the model that is trained."""
    return {"base": block.base} if block.base else {"sha256": hash_file(student_path(block))}


def quantize_gguf(source: Path, target: Path, kind: str) -> None:
    """Write a GGUF in another number type (`f16`, `q4_0`, ...).

    Raises:
        BackendUnavailable: If llama.cpp cannot.
    """
    from lema_local.students.inspection import requantize_gguf

    requantize_gguf(source, target, kind)


def write_use_files(
    folder: Path,
    base: Path,
    adapter: Path | None,
    prompt: CotPrompt | None,
    style: PromptStyle,
    *,
    name: str,
    prefix: str = "",
) -> None:
    """Write Modelfile, llama-server command and chat template, with the prompt that the student was trained on.

    Args:
        folder: Where.
        base: The GGUF to be run.
        adapter: A GGUF LoRA adapter over it; None: the GGUF is the whole student.
        prompt: What the question is put into; None: nothing.
        style: `chat`: this is said by the user in the GGUF's chat template.
        name: What Ollama calls it.
        prefix: Stands before the names of the files.
    """
    from lema_local.students.serving import ServedPrompt, write_serving_files

    mark = "LEMA-QUESTION"
    question = Question(id=mark, dataset="", split="", question=mark, gold_answer="")
    rendered = prompt.render(question, "completion") if prompt else mark
    before, _, after = str(rendered).partition(mark)
    write_serving_files(folder, base, adapter, ServedPrompt(before, after, style), name=name, prefix=prefix)
