"""A recipe: one YAML file and a few flags become one frozen, checked `Recipe`.

Reading order: `yaml.safe_load`, then `--set KEY=VALUE`, then the checks, all problems at once. `--set` beats the
file, the file beats the default. A recipe names things from known lists and files; it can never run code.

One block per stage. A stage's settings are defined beside the stage; here they are put together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from lema_local.datasets import check_spec
from lema_local.errors import LemaError, RecipeError
from lema_local.formats import Arm
from lema_local.jsonl import describe_problems
from lema_local.prompts import load_correction_prompt, load_cot_prompt
from lema_local.shipped import shipped_folder
from lema_local.stages.augment import AugmentSettings
from lema_local.stages.build import BuildSettings
from lema_local.stages.correct import CorrectSettings
from lema_local.stages.evaluate import EvaluateSettings
from lema_local.stages.evolve import EvolveSettings
from lema_local.stages.filter import FilterSettings
from lema_local.stages.sample import SampleSettings
from lema_local.students.base import EngineOptions, KvType
from lema_local.teachers.secrets import mask_secrets
from lema_local.teachers.settings import TeacherSettings, without_key
from lema_local.training.base import LAYOUT_SETTINGS, TrainSettings


class Block(BaseModel):
    """A block of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QuestionSource(Block):
    """Where questions come from."""

    source: str
    """A file of this project's questions, `gsm8k:PATH@train`, `own:FILE`, `quickstart@train`, ..."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first so many; None: all."""
    map: dict[str, str] = {}
    """For `own:`: our field = the file's field, such as `question: problem`."""
    mix: dict[str, float] = {}
    """For `quickstart@...`: weight of each family of problems; empty: equal shares."""
    seed: int = 0
    """For `quickstart@...`: another seed draws other problems of the same split."""


def _from_text(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


Source = Annotated[QuestionSource, BeforeValidator(_from_text)]
"""A mapping, or just its `source`."""


class QuestionsBlock(Block):
    """The questions of a run."""

    train: Source
    """Sampled for mistakes; their rationales are trained on."""
    test: list[Source] = Field(min_length=1)
    """Evaluated on, once, and never trained on."""
    validation: Source | None = None
    """Held out for choices made on the way; None: cut from train."""
    validation_count: int = Field(default=0, ge=0)
    """Without `validation`: so many questions are cut from train, by a hash of their ids."""


class StudentBlock(Block):
    """The student, and how it is run."""

    model: str
    """A GGUF file, `hf:OWNER/REPO/FILE.gguf`, `quickstart` (embedded), or a model's name at `url`."""
    url: Annotated[str, without_key("LEMA_STUDENT_KEY")] | None = None
    """An OpenAI-compatible endpoint that serves `model`; None: llama.cpp in this process."""
    base: str | None = None
    """What is trained: a Hugging Face folder or hub name; None: the GGUF itself, converted."""
    prompt_style: Literal["auto", "chat", "completion"] = "auto"
    """`auto`: chat where the GGUF has a chat template."""
    slots: int | None = Field(default=None, ge=1)
    """Sequences decoded at once; None: chosen."""
    threads: int | None = Field(default=None, ge=1)
    """None: the physical cores."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Longest sequence, prompt and new tokens together; None: what the model was trained on."""
    gpu_layers: int = Field(default=0, ge=-1)
    """Layers on the GPU; -1: all."""
    kv_layout: Literal["auto", "unified", "streams"] = "auto"
    """One pool of KV cells for all sequences, or a stream of cells each; `auto`: the faster one, by measurement."""
    flash_attention: bool | None = None
    """None: on."""
    kv_type: KvType = "f16"
    """How KV cells are kept; `q8_0` and `q4_0` take less memory and change the text a little."""

    @property
    def engine(self) -> EngineOptions:
        """What is not to be chosen by the engine."""
        return EngineOptions(
            slots=self.slots,
            threads=self.threads,
            context_tokens=self.context_tokens,
            gpu_layers=self.gpu_layers,
            is_unified=None if self.kv_layout == "auto" else self.kv_layout == "unified",
            has_flash_attention=self.flash_attention,
            kv_type=self.kv_type,
        )


class TeacherBlock(TeacherSettings):
    """Who corrects, and what it may cost. Keys come from the environment or `lema keys`, never from here."""

    also: tuple[TeacherSettings, ...] = ()
    """Further teachers; each mistake goes to one, shared out by `weight`."""
    fallback: TeacherSettings | None = None
    """Asked about what the others failed on or whose correction was rejected, and about nothing else."""
    max_usd: float | None = Field(default=None, ge=0)
    """Never spend more in this run, all teachers together; None: no cap."""
    max_calls: int | None = Field(default=None, ge=0)
    """Never send more requests in this run; None: no cap."""

    @property
    def members(self) -> tuple[TeacherSettings, ...]:
        """The teachers that share the mistakes, the first one first."""
        own = self.model_dump(include=set(TeacherSettings.model_fields))
        return TeacherSettings.model_validate(own), *self.also


class SampleBlock(SampleSettings):
    """Stage 1: reasoning paths are sampled from the student."""

    prompt: str = "cot-gsm8k"
    """Few-shot prompt: a name of prompts/ or a file."""


class CorrectBlock(CorrectSettings):
    """Stage 2: the teacher corrects the mistakes."""

    prompt: str = "correct-gsm8k"
    """Worked examples for the teacher; the reference teacher needs none."""
    source: str | None = None
    """Corrections made elsewhere (`lema dataset import`): they are taken, and nothing is sampled or asked."""


class AugmentBlock(AugmentSettings):
    """Stage 3: the teacher writes further rationales."""

    prompt: str = "augment-gsm8k"
    """What the teacher is asked for."""


class EvolveBlock(EvolveSettings):
    """New questions for the next round, where there is one."""

    prompt: str = "evolve-math"
    """What the teacher is asked for."""
    answer_prompt: str = "augment-math"
    """How it is asked to answer the new questions."""


class TrainBlock(TrainSettings):
    """Stage 6: an adapter is fitted for each arm."""

    arms: tuple[Arm, ...] = Field(default=("cot", "lema"), validate_default=True)
    """Which arms are trained and evaluated, by their format (docs/formats.md): `cot`, `lema`, `fix-and-continue`,
    `restart`, `critique`, `preference`; `cot_unmatched` is the paper's main table: plain rationales alone, fewer
    examples than `lema`."""
    seeds: tuple[int, ...] = ()
    """Train each arm once more with each of these seeds: the scores get a mean and a spread."""

    @field_validator("arms")
    @classmethod
    def _fit_the_method(cls, arms: tuple[Arm, ...], info: ValidationInfo) -> tuple[Arm, ...]:
        method = info.data.get("method")
        if method == "full" and "preference" in arms:
            raise ValueError(
                "preference needs an adapter (method: qlora or lora), its reference is the base without"
            )
        if method == "dpo" and set(arms) != {"preference"}:
            raise ValueError(
                "method: dpo is for preference alone; leave it at qlora, and preference is trained by DPO all the same"
            )
        return arms


class ExportBlock(Block):
    """Stage 7: the adapters become GGUF, and are compared with what was trained."""

    fidelity_prompts: int = Field(default=20, ge=1)
    """Greedy answers compared between the trained and the exported student."""
    fidelity_max_tokens: int = Field(default=128, ge=1)
    """Length of those answers."""
    merge: tuple[Literal["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"], ...] = ()
    """Also write base and adapter as one GGUF in these types, and let them answer the same prompts."""


class RoundsBlock(Block):
    """Going round again: the best student of a round is sampled anew, and its new mistakes are corrected."""

    count: int = Field(default=1, ge=1)
    """Rounds at most; it stops earlier where validation no longer rises or new mistakes run out."""
    student_from: str = "best"
    """Who is sampled in the next round: `best` of the arms by the held-out questions, or an arm by its name."""
    data: Literal["accumulate", "replace"] = "accumulate"
    """What a round trains on: the accepted corrections of all rounds so far, or its own alone."""
    start_from: Literal["base", "adapter"] = "base"
    """What a later round's arms are fitted from: the base anew, or each arm's own adapter of the round before."""
    needs_rise: bool = True
    """End where the chosen student answers no more held-out questions rightly than any before it; false: do all rounds
    that are asked for, whatever the held-out questions say."""
    min_new_mistakes: int = Field(default=10, ge=1)
    """With fewer new mistakes a round ends before the teacher is asked."""


class ReportBlock(Block):
    """Stage 9: what came of it."""

    examples: int = Field(default=20, ge=0)
    """Mistakes with their corrections, and test questions with the arms' answers. The arms answer the corrected
    training questions too, so that each correction is seen beside what came of it."""


class Recipe(Block):
    """Everything a run needs to know."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run's folder: runs/NAME."""
    questions: QuestionsBlock
    student: StudentBlock
    """Who is taught: sampled, trained and evaluated."""
    other_students: tuple[StudentBlock, ...] = ()
    """Sampled as well, for their mistakes alone."""
    teacher: TeacherBlock = TeacherBlock()
    sample: SampleBlock = SampleBlock()
    correct: CorrectBlock = CorrectBlock()
    augment: AugmentBlock | None = None
    evolve: EvolveBlock | None = None
    """New questions for each further round (`rounds`); a run of one round writes none."""
    filter: FilterSettings = FilterSettings()
    build: BuildSettings = BuildSettings()
    train: TrainBlock = TrainBlock()
    export: ExportBlock = ExportBlock()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportBlock = ReportBlock()
    rounds: RoundsBlock = RoundsBlock()


NOT_IN_RESULT: dict[str, frozenset[str]] = {
    "student": frozenset(
        {"slots", "threads", "context_tokens", "gpu_layers", "kv_layout", "flash_attention"}
    ),
    "teacher": frozenset({"price_in", "price_out", "max_usd", "max_calls", "slots", "gpu_layers"}),
    "filter": frozenset({"drop_graded", "grades"}),  # with them, the grades themselves are in the fingerprint
    "sample": frozenset(),
    "correct": frozenset({"source", "concurrency", "rpm", "tpm", "timeout_s", "retries"}),
    "augment": frozenset({"concurrency", "rpm", "tpm", "timeout_s", "retries"}),
    "evolve": frozenset({"concurrency", "rpm", "tpm", "timeout_s", "retries"}),
    "train": frozenset({"arms", "seeds", "save_every_steps", "report_to", *LAYOUT_SETTINGS}),
}
"""Settings that change how a result is reached, not the result: they are in no fingerprint."""
UNLESS_SET: dict[str, frozenset[str]] = {
    "build": frozenset({"max_corrections", "mask_wrong_step", "right_paths"})
}
"""Settings that are in a fingerprint only where they are set: runs made before there were such go on."""


def settings_in_result(recipe: Recipe, block: str) -> dict[str, Any]:
    """Return the settings of a block that can change a result."""
    settings = getattr(recipe, block)
    if settings is None:
        return {}
    dumped: dict[str, Any] = settings.model_dump(mode="json", exclude=set(NOT_IN_RESULT.get(block, ())))
    fields = type(settings).model_fields
    unset = {name for name in UNLESS_SET.get(block, ()) if dumped[name] == fields[name].default}
    return {name: value for name, value in dumped.items() if name not in unset}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override, check and freeze a recipe.

    Args:
        path: A YAML file, or the name of a shipped recipe (`lema recipes list`).
        overrides: `a.b=value` each; the value is read as YAML.

    Raises:
        RecipeError: With all problems at once.
    """
    found = find_recipe(path)
    values = _read_yaml(found)
    for override in overrides:
        _apply_override(values, override)
    return check_recipe(values, str(path))


def check_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Return the checked recipe.

    Raises:
        RecipeError: With all problems at once, unknown keys with the nearest known one.
    """
    problems: list[str] = []
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as err:
        problems = [_describe_problem(item) for item in err.errors()]
    else:
        problems = _check_rounds(recipe)
    problems += _check_names(values)
    if problems:
        raise RecipeError(
            describe_problems(where, problems), hint="lema recipes show quickstart prints a full example"
        )
    return recipe


def _check_rounds(recipe: Recipe) -> list[str]:
    """Return what a recipe lacks for more than one round."""
    block, questions = recipe.rounds, recipe.questions
    if block.count == 1:
        return []
    problems = []
    if questions.validation is None and not questions.validation_count:
        problems.append(
            "rounds.count: the best student of a round is chosen on held-out questions, and there are none"
            " (set questions.validation or questions.validation_count)"
        )
    if block.start_from == "adapter" and recipe.train.outcome != "adapter":
        problems.append(
            "rounds.start_from: whole models are trained from the base; set rounds.start_from to base"
        )
    if block.student_from != "best" and block.student_from not in recipe.train.arms:
        arms = ", ".join(recipe.train.arms)
        problems.append(f"rounds.student_from: no arm {block.student_from!r}; there are best, {arms}")
    return problems


PROMPTS: Mapping[tuple[str, str], Callable[[str], object]] = {
    ("sample", "prompt"): load_cot_prompt,
    ("correct", "prompt"): load_correction_prompt,
    ("augment", "prompt"): load_cot_prompt,
    ("evolve", "prompt"): load_cot_prompt,
    ("evolve", "answer_prompt"): load_cot_prompt,
    ("build", "cot_prompt"): load_cot_prompt,
}
"""Where a recipe names a prompt, and what reads it."""


def _check_names(values: Mapping[str, Any]) -> list[str]:
    """Return the problems with prompts, datasets and splits that a recipe names; files of questions may come later."""
    problems = []
    for (block, key), load in PROMPTS.items():
        named = _inner(values, block).get(key)
        if isinstance(named, str):
            problems += _try(f"{block}.{key}", load, named)
    for name, source in _list_sources(_inner(values, "questions")):
        problems += _try(name, check_spec, source)
    return problems


def _inner(values: Mapping[str, Any], block: str) -> Mapping[str, Any]:
    found = values.get(block)
    return found if isinstance(found, Mapping) else {}


def _list_sources(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, spec) of each source of questions that a recipe names."""
    tests = block.get("test")
    given = {"train": block.get("train"), "validation": block.get("validation")} | {
        f"test.{place}": one for place, one in enumerate(tests if isinstance(tests, list) else [])
    }
    for name, one in given.items():
        spec = one.get("source") if isinstance(one, Mapping) else one
        if isinstance(spec, str) and spec.partition("@")[0] != "quickstart":
            yield f"questions.{name}", spec


def _try(name: str, check: Callable[[str], object], value: str) -> list[str]:
    """Return what a check says against a value."""
    try:
        check(value)
    except LemaError as err:
        return [f"{name}: {err}" + (f" ({err.hint})" if err.hint else "")]
    return []


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML, every default written out."""
    import yaml

    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    return text


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the project, by name."""
    return {path.stem: path for path in sorted(shipped_folder("recipes").glob("*.yaml"))}


def find_recipe(path: Path) -> Path:
    """Return the path of a recipe given by file or by shipped name.

    Raises:
        RecipeError: If there is no such file or name, with the nearest name.
    """
    if path.is_file():
        return path
    names = shipped_recipes()
    if path.name in names and path.parent == Path():
        return names[path.name]
    near = difflib.get_close_matches(path.stem, names, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    raise RecipeError(f"no recipe {path}", hint=f"{meant}lema recipes list names the shipped ones")


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as err:
        raise RecipeError(f"cannot read {path}: {err}") from err
    except yaml.YAMLError as err:
        raise RecipeError(
            f"{path} is no YAML: {' '.join(str(err).split())}", hint="check the indentation"
        ) from err
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path} is no recipe: expected blocks such as 'questions:', got {type(values).__name__}"
        )
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in nested dictionaries."""
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"--set {override}: expected KEY=VALUE", hint="for example --set sample.temperature=0.8"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise RecipeError(f"--set {override}: the value is no YAML") from err
    *parents, last = key.strip().split(".")
    here = values
    for parent in parents:
        inner = here.get(parent)
        if inner is None:
            inner = here[parent] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: {parent} is no block but {inner!r}")
        here = inner
    here[last] = value


def _describe_problem(item: ErrorDetails) -> str:
    """Say one of pydantic's findings in our words."""
    loc = [part for part in item["loc"] if isinstance(part, int | str)]
    name = ".".join(map(str, loc))
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _known_keys(loc[:-1]), n=1)
        return f"{name}: unknown key" + (f" (did you mean '{near[0]}'?)" if near else "")
    if item["type"] == "missing":
        return f"{name}: is required"
    told = f"{name}: {item['msg'][0].lower() + item['msg'][1:]}, got {item['input']!r}"
    if item["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
        near = difflib.get_close_matches(str(item["input"]), known, n=1)
        told += f" (did you mean '{near[0]}'?)" if near else ""
    return mask_secrets(told)


def _known_keys(loc: Sequence[int | str]) -> list[str]:
    """Return the keys that the block at `loc` may have."""
    block: Any = Recipe
    for part in loc:
        if isinstance(part, int) or block is None:
            continue
        field = block.model_fields.get(part)
        block = _model_within(field.annotation) if field is not None else None
    return list(block.model_fields) if block is not None else []


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """Return the model in `Model`, `Model | None` or `list[Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_within(inner))), None)
