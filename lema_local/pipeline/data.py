"""Questions, sampling, filter and training files: what each is made from, and the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import BaseModel

from lema_local.datasets import split_validation
from lema_local.errors import RunStateError
from lema_local.formats import FORMATS
from lema_local.grades import GRADES_FILE, read_grades
from lema_local.jsonl import read_records, write_records
from lema_local.pipeline.context import EVOLVED_QUESTIONS, Run
from lema_local.prompts import CotPrompt, load_cot_prompt
from lema_local.recipe import StudentBlock, settings_in_result
from lema_local.records import Correction, Question, Rationale, ReasoningPath
from lema_local.runs import MadeFrom, Manifest, RunFolder, StageFolder, fingerprint, hash_file
from lema_local.sampling import SampleWatch, expected_paths, sample_into_file
from lema_local.stage_runner import STAGES, Outcome, save_chosen
from lema_local.stages.build import (
    ALWAYS,
    build_arms,
    count_examples,
    match_arms,
    remove_contaminated,
    write_arms,
)
from lema_local.stages.filter import filter_corrections
from lema_local.stages.questions import check_disjoint, check_gold_answers
from lema_local.stages.sample import SampleSettings, derive_seed
from lema_local.students import lend_counter
from lema_local.wiring import (
    LentStudents,
    load_source,
    student_file,
    student_identity,
    student_path,
    with_exported,
)


def do_questions(run: Run) -> None:
    """Load, check and write the questions; none of the test questions is among those trained on."""
    blocks = run.recipe.questions
    train = load_source(blocks.train)
    if blocks.validation is not None:
        validation = load_source(blocks.validation)
    else:
        train, validation = split_validation(train, blocks.validation_count)
    train += read_evolved(run)
    test = [question for source in blocks.test for question in load_source(source)]
    run.questions = {"train": train, "validation": validation, "test": test}
    kept = check_disjoint(run.questions, allows_test=run.recipe.build.allow_test)
    if len(kept) < len(train):
        run.tell(f"{len(train) - len(kept)} training question(s) left out: validation holds their text")
    run.questions["train"] = kept
    made_from = {
        split: {"count": len(some), "sha256": hash_records(some)} for split, some in run.questions.items()
    }
    for split, facts in made_from.items():
        run.runner.marks[f"{split} questions"] = fingerprint(facts)

    def work(folder: StageFolder, _: Manifest) -> Outcome:
        check_gold_answers(chain(*run.questions.values()))
        for split, some in run.questions.items():
            write_records(folder.path / f"{split}.jsonl", some)
        return Outcome(counts={split: len(some) for split, some in run.questions.items()})

    run.runner.do("questions", made_from, work)


def read_evolved(run: Run) -> list[Question]:
    """Return the new questions of this round and of those before it."""
    paths = [one.stage(STAGES["evolve"]).path / EVOLVED_QUESTIONS for one in (*run.earlier, run.folder)]
    return [question for path in paths if path.exists() for question in read_records(path, Question)]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Who is sampled, and how."""

    blocks: tuple[StudentBlock, ...]
    prompt: CotPrompt
    settings: SampleSettings
    made_from: MadeFrom
    """Beside the questions and the recipe's settings."""
    adapters: tuple[tuple[Path, float], ...] = ()
    name: str | None = None
    """What the paths call the student; None: its file's name."""


def _plan_sampling(run: Run) -> Sampling:
    """The students as the recipe names them; in a later round the best one of the round before, as it was trained."""
    recipe, settings = run.recipe, run.recipe.sample
    if run.round is None:
        prompt = load_cot_prompt(settings.prompt)
        others = [student_identity(block) for block in recipe.other_students]
        made_from = {**({"other_students": others} if others else {}), "prompt": prompt.fingerprint}
        return Sampling((recipe.student, *recipe.other_students), prompt, settings, made_from)
    prompt = load_cot_prompt(recipe.build.cot_prompt)
    number, arm = run.number, run.round.arm
    gguf = run.earlier[-1].stage(STAGES["export"]).path / arm / f"{recipe.train.outcome}.gguf"
    student, adapter = with_exported(recipe.student, gguf)
    return Sampling(
        (student.model_copy(update={"prompt_style": recipe.train.prompt_style}),),
        prompt,
        # Other seeds than in the rounds before: a student that learned little would repeat itself.
        settings.model_copy(update={"seed": derive_seed(settings.seed, f"round {number}", 0)}),
        {"prompt": prompt.fingerprint, "round": number, "trained": hash_file(gguf)},
        adapters=((adapter, 1.0),) if adapter else (),
        name=f"{student_path(recipe.student).name}+{arm}-round-{number - 1}",
    )


def do_sample(run: Run) -> None:
    """Sample reasoning paths of the training questions; corrections made elsewhere need none."""
    if run.is_given_corrections:
        return
    plan = _plan_sampling(run)
    blocks, settings = plan.blocks, plan.settings
    made_from = {
        "questions": run.runner.marks["train questions"],
        "student": run.student_identity,
        **plan.made_from,
        "sample": settings_in_result(run.recipe, "sample"),
    }

    def work(folder: StageFolder, started: Manifest) -> Outcome:
        asked = run.questions["train"]
        lent = LentStudents(
            blocks,
            adapters=plan.adapters,
            name=plan.name,
            chosen=started.chosen.get("chosen"),
            on_chosen=partial(save_chosen, folder, started),
            tell=run.tell,
        )
        with run.show("sample", expected_paths(len(asked), len(blocks), settings)) as update:
            sampled = sample_into_file(
                folder.path / "paths.jsonl",
                asked,
                lent.openers,
                plan.prompt,
                settings,
                on_paths=SampleWatch(update),
                on_refusal=lambda question, why: run.tell(f"{question.id} is left out: {why}"),
            )
        return Outcome(counts=sampled.summary.model_dump(), chosen=lent.described)

    run.runner.do("sample", made_from, work)


def do_filter(run: Run) -> None:
    """Keep the corrections that may be learned from."""
    made_from: MadeFrom = {
        "corrections": run.runner.marks["correct"],
        "filter": settings_in_result(run.recipe, "filter"),
    }
    grades, settings = None, run.recipe.filter
    if settings.drop_graded:
        grades = read_grades(Path(settings.grades) if settings.grades else run.folder.path / GRADES_FILE)
        made_from["drop_graded"] = {"grades": settings.drop_graded, "given": fingerprint(grades)}

    def work(folder: StageFolder, _: Manifest) -> Outcome:
        corrections = run.runner.read("correct", "corrections.jsonl", Correction)
        filtered = filter_corrections(corrections, run.questions["train"], settings, grades)
        write_records(folder.path / "accepted.jsonl", filtered.accepted)
        write_records(folder.path / "rejected.jsonl", filtered.rejected)
        counts = {"accepted": len(filtered.accepted), "rejected": len(filtered.rejected)}
        reasons = Counter(one.reason or one.verdict for one in filtered.rejected)
        return Outcome(counts={**counts, "reasons": dict(reasons.most_common(20))})

    run.runner.do("filter", made_from, work)


def do_build(run: Run) -> None:
    """Build the training files of the arms."""
    settings = run.recipe.build
    earlier = run.earlier if run.recipe.rounds.data == "accumulate" else []
    made_from = {
        "questions": run.runner.marks["train questions"],
        "accepted": run.runner.marks["filter"],
        "rationales": run.runner.marks.get("augment"),
        "prompt": load_cot_prompt(settings.cot_prompt).fingerprint,
        "build": settings_in_result(run.recipe, "build"),
        "test questions": run.runner.marks["test questions"],
        **({"tokenizer": run.student_identity} if settings.match == "tokens" else {}),
        **({"arms": run.recipe.train.arms} if set(run.recipe.train.arms) - set(ALWAYS) else {}),
        **({"earlier rounds": [_mark(one) for one in earlier]} if earlier else {}),
    }

    def work(folder: StageFolder, _: Manifest) -> Outcome:
        filtered = [one.stage(STAGES["filter"]).path for one in (*earlier, run.folder)]
        accepted = [one for path in filtered for one in read_records(path / "accepted.jsonl", Correction)]
        has_rationales = run.recipe.augment is not None
        rationales = run.runner.read("augment", "rationales.jsonl", Rationale) if has_rationales else []
        names = tuple(dict.fromkeys((*ALWAYS, *run.recipe.train.arms)))
        shows_right = any(FORMATS[name].render_right for name in names)
        has_paths = run.runner.path(
            "sample", "paths.jsonl"
        ).is_file()  # not where corrections came from elsewhere
        paths = run.runner.read("sample", "paths.jsonl", ReasoningPath) if shows_right and has_paths else []
        built = build_arms(run.questions["train"], accepted, rationales, settings, names, paths)
        arms, certificates = remove_contaminated(
            built, run.questions["train"], run.questions["test"], settings
        )
        with _measure(run) as measure:
            arms = match_arms(arms, settings, measure or len)
            counts = count_examples(arms, measure)
        write_arms(folder.path, arms, certificates)
        for certificate in certificates.values():
            run.tell(certificate.sentence)
        return Outcome(counts=counts)

    run.runner.do("build", made_from, work)


def _mark(folder: RunFolder) -> str:
    """The fingerprint of an earlier round's accepted corrections."""
    manifest = folder.stage(STAGES["filter"]).manifest()
    if manifest is None:
        raise RunStateError(
            f"{folder.path} has no accepted corrections any more", hint="lema status says why"
        )
    return manifest.fingerprint


@contextmanager
def _measure(run: Run) -> Iterator[Callable[[str], int] | None]:
    """Lend what counts trained tokens, where they are to be matched."""
    if run.recipe.build.match != "tokens":
        yield None
        return
    with lend_counter(student_file(run.recipe.student)) as measure:
        yield measure


def hash_records(records: Sequence[BaseModel]) -> str:
    """Return a hash of records, in their order."""
    return fingerprint({"records": [record.model_dump(mode="json") for record in records]})
