"""The data card: `README.md` of a shared folder, in the form of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lema_local.report.words import clean, count_of
from lema_local.runs import write_text
from lema_local.sharing.export import CERTIFICATE_FILE, FACTS_FILE, RECIPE_FILE, Shared, describe_filter
from lema_local.sharing.licences import hub_licence
from lema_local.sharing.schema import COLUMNS, QUESTION_COLUMNS, Column

CARD = "README.md"
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def write_card(folder: Path, shared: Shared) -> None:
    """Write the card of a folder whose files stand there already."""
    sections = [
        *_introduction(shared),
        *_counts(shared),
        *_making(shared),
        *_checking(shared),
        *_contamination(shared),
        *_licences(shared),
        *_columns(shared),
        *_use(shared),
    ]
    write_text(folder / CARD, f"---\n{_front_matter(shared)}---\n\n" + "\n".join(sections) + "\n")


def _front_matter(shared: Shared) -> str:
    import yaml

    values: dict[str, Any] = {
        **_licence_head(shared),
        "pretty_name": f"{shared.name}: corrections of a student's mistakes",
        "size_categories": [_size(sum(shared.splits.values()))],
        "task_categories": ["text-generation"],
        "tags": ["lema", "learning-from-mistakes", "corrections", "reasoning", "error-correction", "lema-local"],
        "configs": list(_configs(shared)),
    }  # fmt: skip
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _licence_head(shared: Shared) -> dict[str, str]:
    """The hub knows its own names of licences; all else is `other`, with a name and where it is explained."""
    if shared.licence is None:
        return {"license": "other", "license_name": "as-questions-and-teachers", "license_link": CARD}
    known = hub_licence(shared.licence)
    return (
        {"license": known}
        if known
        else {"license": "other", "license_name": "see-card", "license_link": CARD}
    )


def _size(rows: int) -> str:
    return next((name for limit, name in SIZES if rows < limit), "n>10M")


def _configs(shared: Shared) -> Iterator[dict[str, Any]]:
    files = [{"split": split, "path": f"corrections/{split}-*.parquet"} for split in shared.splits]
    yield {"config_name": "corrections", "default": True, "data_files": files}
    if shared.questions:
        table = {"split": "train", "path": "questions/train-*.parquet"}
        yield {"config_name": "questions", "data_files": [table]}


def _introduction(shared: Shared) -> Iterator[str]:
    yield f"# {shared.name}: corrections of a student's mistakes"
    yield ""
    yield (
        "Each row is one mistake of a small model (the student) with a stronger model's (the teacher's) correction:"
        " which step is wrong, why, and how the solution goes on from there. Made with lema-local after"
        " *Learning From Mistakes Makes LLM Better Reasoner* ([arXiv 2310.20689](https://arxiv.org/abs/2310.20689))."
    )
    yield ""
    rows = ", ".join(f"{count:,} in the split `{split}`" for split, count in shared.splits.items())
    yield f"- Corrections: {rows}"
    if shared.questions:
        yield f"- Questions: {shared.questions:,}, with those that no correction was made for"
    if not shared.has_question_text:
        yield "- The questions' text and gold answers are left out: their source has them, by `question_id`."
    yield ""


def _counts(shared: Shared) -> Iterator[str]:
    yield "## Counts"
    yield ""
    yield "| Questions of | Teacher, as asked | As it named itself | Verdict | Corrections |"
    yield "| --- | --- | --- | --- | ---: |"
    for one in shared.counts:
        cells = (one["dataset"], one["teacher"], one["teacher_reported"] or "-", one["verdict"])
        yield f"| {' | '.join(map(_cell, cells))} | {one['corrections']:,} |"
    yield ""
    left = "" if "rejected" in shared.splits else " Rejected ones were counted, and are not in the folder."
    yield f"`accepted`: the corrected solution ends with the gold answer.{left} `failed`: no reply."
    yield ""


def _making(shared: Shared) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    yield f"The recipe stands in full in [{RECIPE_FILE}]({RECIPE_FILE})."
    yield ""
    yield from (
        f"- Prompt {one['use']}: {_cell(one['name'])}, fingerprint `{one['fingerprint']}`"
        for one in shared.prompts
    )
    asked = ", ".join(f"{_cell(how)} ({count:,})" for how, count in shared.asked.items())
    yield f"- The teacher was asked: {asked}. The usual way shows it the question and the mistake, not the gold answer."
    if any(one.teacher == "reference" for one in shared.terms):
        yield "- `reference` is no model: it derives the correction from the gold rationale."
    yield ""


def _checking(shared: Shared) -> Iterator[str]:
    yield "## Filter and checks"
    yield ""
    yield f"Filter: {describe_filter(shared.filter)}."
    yield ""
    yield "| Check | Passed, of accepted and rejected |"
    yield "| --- | ---: |"
    for name, (passed, made) in shared.checks.items():
        yield f"| {name} | {count_of(passed, made)} of {made:,} |"
    yield ""
    if shared.grades:
        given = ", ".join(f"{grade.replace('_', ' ')} {count:,}" for grade, count in shared.grades.items())
        yield f"Grades by {shared.reviewers} reviewer(s): {given}."
    else:
        yield (
            "No person has graded these corrections. Ending with the gold answer does not show that the named step is"
            " the wrong one, or that the explanation is true."
        )
    yield ""


def _contamination(shared: Shared) -> Iterator[str]:
    yield "## Contamination with test questions"
    yield ""
    if shared.certificate is None:
        yield "Not checked: the run had no test questions."
    else:
        one = shared.certificate
        yield f"{one.sentence} SHA-256 of the file: `{one.sha256}`."
        yield f"Every hit stands in [{CERTIFICATE_FILE}]({CERTIFICATE_FILE})."
        yield "Other test sets were not looked at."
    yield ""


def _licences(shared: Shared) -> Iterator[str]:
    yield "## Licences"
    yield ""
    if shared.licence is not None:
        yield f"Shared under: {_cell(shared.licence)}, as far as the rights of others below allow it."
    else:
        yield "Whoever uses these rows keeps to the licences of the questions and to the terms of the teachers:"
    yield ""
    yield "| Questions of | Licence | Source |"
    yield "| --- | --- | --- |"
    for source in shared.licences:
        yield f"| {_cell(source.dataset)} | {_cell(source.licence)} | {source.source or 'the maker of this folder'} |"
    yield ""
    yield "| Teacher | Provider | Terms |"
    yield "| --- | --- | --- |"
    for one in shared.terms:
        yield f"| {_cell(one.teacher)} | {_cell(one.provider)} | {_cell(one.terms)} |"
    yield ""


def _columns(shared: Shared) -> Iterator[str]:
    yield "## Columns"
    yield ""
    yield from _table(COLUMNS)
    if shared.questions:
        yield "The table `questions` has the questions alone:"
        yield ""
        yield from _table(QUESTION_COLUMNS)


def _table(columns: tuple[Column, ...]) -> Iterator[str]:
    words = {"strings": "list of string", "checks": "struct of bool"}
    yield "| Column | Type | Meaning |"
    yield "| --- | --- | --- |"
    for one in columns:
        yield f"| `{one.name}` | {words.get(one.type, one.type)} | {_cell(one.meaning)} |"
    yield ""


def _use(shared: Shared) -> Iterator[str]:
    questions = "" if shared.has_question_text else " --questions gsm8k:train.jsonl"
    yield "## How to load it, and how to train from it"
    yield ""
    yield "```python"
    yield "from datasets import load_dataset"
    yield ""
    yield 'rows = load_dataset("FOLDER_OR_OWNER/NAME", "corrections", split="train")'
    yield "```"
    yield ""
    yield "With lema-local, which grades every correction again before it counts:"
    yield ""
    yield "```"
    yield f"lema dataset import FOLDER_OR_OWNER/NAME --out shared{questions}"
    yield (
        "lema run my-recipe.yaml --set questions.train=shared/questions.jsonl --set"
        " correct.source=shared/corrections.jsonl"
    )
    yield "```"
    yield ""
    yield (
        "Without it: the prompt is the question with the numbered `original_steps`, the completion is `Incorrect Step`,"
        " `Explanation` and the `corrected_solution`; plain rationales are trained on beside them."
    )
    yield ""
    yield f"All of this card as data: [{FACTS_FILE}]({FACTS_FILE})."


def _cell(text: str) -> str:
    """Return text that cannot end a table's cell, begin HTML, or run over a line."""
    plain = " ".join(clean(str(text)).split()).replace("|", "\\|")
    return plain.replace("<", "&lt;").replace(">", "&gt;")
