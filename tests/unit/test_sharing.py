"""Corrections as a shared folder: written, read back the same, and nothing in it believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from fake_run import FakeRun

from lema_local.contamination import Certificate
from lema_local.errors import InputError, RunStateError
from lema_local.grades import GRADES_FILE, GradeBook
from lema_local.jsonl import read_records, write_records
from lema_local.recipe import load_recipe
from lema_local.records import Correction, Question
from lema_local.report.reading import read_run
from lema_local.report.summary import describe_state
from lema_local.runs import Manifest, RunFolder, hash_file, write_text
from lema_local.sharing.export import ExportSettings, Shared, export_run
from lema_local.sharing.intake import Taken, take_in
from lema_local.sharing.licences import hub_licence
from lema_local.sharing.privacy import public_name, public_recipe
from lema_local.sharing.rows import read_source
from lema_local.sharing.schema import COLUMNS
from lema_local.stages.filter import FilterSettings, filter_corrections


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose corrections stand as the filter leaves them."""
    run = FakeRun(train=14, test=6, samples=2).write(tmp_path / "run")
    test = read_records(run.path / "0_questions/test.jsonl", Question)
    # The fake's test questions are worded as its training questions: others are tested on here.
    others = [
        one.model_copy(update={"question": f"What is {n} plus {n}, {one.split}?"})
        for n, one in enumerate(test)
    ]
    write_records(run.path / "0_questions/test.jsonl", others)
    _filter(run, read_records(run.path / "2_correct/corrections.jsonl", Correction))
    return run


def _filter(run: RunFolder, corrections: list[Correction]) -> None:
    questions = read_records(run.path / "0_questions/train.jsonl", Question)
    filtered = filter_corrections(corrections, questions, FilterSettings())
    write_records(run.path / "4_filter/accepted.jsonl", filtered.accepted)
    write_records(run.path / "4_filter/rejected.jsonl", filtered.rejected)


def _change(run: RunFolder, **values: object) -> list[Correction]:
    """Change the first correction, and filter again."""
    first, *others = read_records(run.path / "2_correct/corrections.jsonl", Correction)
    corrections = [first.model_copy(update=values), *others]
    _filter(run, corrections)
    return corrections


def _export(run: RunFolder, **settings: object) -> tuple[Path, Shared]:
    folder = run.path.parent / "shared"
    return folder, export_run(run, folder, ExportSettings(**settings))  # type: ignore[arg-type]


def _import(source: Path, **more: object) -> Taken:
    return take_in(read_source(str(source)), **more)  # type: ignore[arg-type]


def _rewrite(folder: Path, **values: object) -> None:
    """Change the first row of the corrections, as somebody else's file may have it."""
    from datasets import Dataset

    path = folder / "corrections/train-00000-of-00001.parquet"
    table = Dataset.from_parquet(str(path), cache_dir=str(folder.parent / "cache"))
    rows = table.to_list()
    rows[0] |= values
    Dataset.from_list(rows, features=table.features).to_parquet(str(path))


# --- there and back ------------------------------------------------------------------------------------------


def test_what_is_imported_are_the_records_that_were_exported(run: RunFolder) -> None:
    folder, shared = _export(run, has_rejected=True)
    taken = _import(folder)
    accepted, rejected = (
        read_records(run.path / f"4_filter/{name}.jsonl", Correction) for name in ("accepted", "rejected")
    )
    assert taken.corrections == accepted + [one for one in rejected if one.verdict == "rejected"]
    assert list(taken.questions.values()) == read_records(run.path / "0_questions/train.jsonl", Question)
    assert taken.not_as_claimed == 0
    assert shared.splits["train"] == len(accepted) > 0


def test_the_hubs_own_library_reads_folder_and_card(run: RunFolder, tmp_path: Path) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    folder, shared = _export(run, licence="CC BY 4.0")
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == shared.splits
    assert loaded["train"].column_names == [column.name for column in COLUMNS]
    questions = load_dataset(str(folder), "questions", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(questions) == 14
    data = DatasetCard.load(folder / "README.md").data.to_dict()
    assert (data["license"], data["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert [one["config_name"] for one in data["configs"]] == ["corrections", "questions"]


def test_the_card_counts_names_licences_and_certifies(run: RunFolder) -> None:
    with_grades = GradeBook(run.path / GRADES_FILE)
    accepted = read_records(run.path / "4_filter/accepted.jsonl", Correction)
    with_grades.mark("maria", accepted[0], "excellent")
    with_grades.mark("maria", accepted[1], "skip")
    folder, shared = _export(run)
    card = (folder / "README.md").read_text()
    assert f"| quickstart | reference | - | accepted | {len(accepted)} |" in card
    assert "| quickstart | Apache-2.0 | made by lema-local |" in card
    assert "Grades by 1 reviewer(s): excellent 1." in card
    assert "maria" not in card
    assert all(f"| `{column.name}` |" in card for column in COLUMNS)
    certificate = Certificate.model_validate_json((folder / "contamination.json").read_bytes())
    assert certificate.sha256 == hash_file(folder / "corrections/train-00000-of-00001.parquet")
    assert certificate.sentence in card
    facts = json.loads((folder / "lema_dataset.json").read_text())
    assert sum(one["corrections"] for one in facts["counts"]) == len(accepted) + sum(
        1 for _ in read_records(run.path / "4_filter/rejected.jsonl", Correction)
    )
    assert facts["licences"][0]["licence"] == "Apache-2.0"
    load_recipe(folder / "recipe.yaml")
    assert shared.licence is None
    assert yaml.safe_load(card.split("---")[1])["license"] == "other"


@pytest.mark.parametrize(
    ("teacher", "provider"),
    [
        ("gpt-4o", "OpenAI"),
        ("anthropic/claude-sonnet-4", "Anthropic"),
        ("gemini/gemini-2.5-pro", "Google"),
        ("groq/llama-3", "groq"),
        ("ollama_chat/qwen3:32b", "whoever made the model qwen3:32b"),
    ],
)
def test_a_providers_terms_are_told_by_its_name(run: RunFolder, teacher: str, provider: str) -> None:
    corrections = read_records(run.path / "2_correct/corrections.jsonl", Correction)
    _filter(run, [one.model_copy(update={"teacher": teacher}) for one in corrections])
    folder, shared = _export(run)
    assert [(one.teacher, one.provider) for one in shared.terms] == [(teacher, provider)]
    assert f"| {teacher} | {provider} |" in (folder / "README.md").read_text()


def test_later_rounds_of_a_run_go_along(run: RunFolder) -> None:
    first = read_records(run.path / "4_filter/accepted.jsonl", Correction)
    later = run.path / "round_2"
    shutil.copytree(run.path, later)
    shutil.copytree(later, run.path / "round_3")
    RunFolder(run.path / "round_3").stage("4_filter").manifest_path.unlink()
    renamed = [one.model_copy(update={"student": "tiny.gguf+lema-round-1"}) for one in first[:2]]
    write_records(later / "4_filter/accepted.jsonl", renamed)
    folder, shared = _export(run)
    assert shared.splits == {"train": len(first) + 2}
    assert _import(folder).corrections == first + renamed


@pytest.mark.parametrize(
    ("licence", "name"),
    [
        ("MIT", "mit"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("Apache-2.0", "apache-2.0"),
        ("house rules", None),
        ("cc-by-9.0", None),
    ],
)
def test_only_what_the_hub_knows_is_named_as_its_licence(licence: str, name: str | None) -> None:
    assert hub_licence(licence) == name


# --- what does not leave ------------------------------------------------------------------------------------


def test_no_path_address_or_key_leaves_this_machine(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value-17")
    recipe = yaml.safe_load(run.recipe_path.read_text())
    recipe["student"]["model"] = "/home/someone/models/tiny.gguf"
    recipe["questions"]["train"] = "gsm8k:/home/someone/gsm8k/train.jsonl@train"
    recipe["teacher"] = {"model": "openai/big", "url": "http://gpu7.someone.example:8080/v1"}
    write_text(run.recipe_path, yaml.safe_dump(recipe))
    _change(
        run, student="/home/someone/models/tiny.gguf", teacher="llamacpp//home/someone/big.gguf",
        explanation="No: very-secret-value-17.",
    )  # fmt: skip
    folder, shared = _export(run)
    written = "".join(
        path.read_text() for path in folder.rglob("*") if path.suffix in (".md", ".json", ".yaml")
    )
    written += json.dumps([row for _, row in read_source(str(folder)).corrections])
    for word in ("someone", "very-secret"):
        assert word not in written
    assert "llamacpp/big.gguf" in written
    assert "gsm8k:train.jsonl@train" in written
    assert shared.masked == 1


def test_names_lose_their_folders_and_keep_the_rest() -> None:
    assert public_name("hf:Qwen/Qwen2.5-GGUF/q4_0.gguf") == "hf:Qwen/Qwen2.5-GGUF/q4_0.gguf"
    assert public_name(r"C:\Users\me\tiny.gguf") == "tiny.gguf"
    assert public_name("openai/gpt-4o") == "openai/gpt-4o"
    assert public_recipe(
        {"questions": {"test": [{"source": "own:data/mine.csv"}, {"source": "gsm8k@test"}]}}
    ) == {"questions": {"test": [{"source": "own:mine.csv"}, {"source": "gsm8k@test"}]}}


def test_questions_of_the_test_set_are_left_out_and_certified(run: RunFolder) -> None:
    accepted = read_records(run.path / "4_filter/accepted.jsonl", Correction)
    questions = {one.id: one for one in read_records(run.path / "0_questions/train.jsonl", Question)}
    twin = questions[accepted[0].question_id].model_copy(update={"id": "quickstart/test/99", "split": "test"})
    write_records(run.path / "0_questions/test.jsonl", [twin])
    recipe = yaml.safe_load(run.recipe_path.read_text()) | {"build": {"remove_contaminated": ["exact"]}}
    write_text(run.recipe_path, yaml.safe_dump(recipe))
    folder, shared = _export(run)
    assert shared.certificate is not None
    assert shared.certificate.removed_questions == 1
    taken = _import(folder)
    assert accepted[0].question_id not in taken.questions
    assert shared.questions == 13


def test_own_data_need_a_licence(run: RunFolder) -> None:
    path = run.path / "0_questions/train.jsonl"
    write_records(path, [one.model_copy(update={"dataset": "mine"}) for one in read_records(path, Question)])
    with pytest.raises(InputError, match="licence of the questions of mine is not known") as caught:
        _export(run)
    assert "--licence" in str(caught.value.hint)
    assert not (run.path.parent / "shared").exists()
    _, shared = _export(run, licence="no licence, all rights reserved")
    assert shared.licences[0].licence == "no licence, all rights reserved"


def test_texts_may_stay_here_and_come_from_the_readers_own_copy(run: RunFolder) -> None:
    folder, _ = _export(run, has_question_text=False)
    assert not (folder / "questions").exists()
    rows = [row for _, row in read_source(str(folder)).corrections]
    assert {row["question"] for row in rows} == {row["gold_answer"] for row in rows} == {None}
    with pytest.raises(InputError, match="comes without its text"):
        _import(folder)
    own = read_records(run.path / "0_questions/train.jsonl", Question)
    taken = _import(folder, own=own)
    assert taken.corrections == read_records(run.path / "4_filter/accepted.jsonl", Correction)
    assert taken.questions == {one.id: one for one in own}


def test_a_run_without_a_filter_or_a_folder_in_use_is_refused(run: RunFolder) -> None:
    folder, _ = _export(run)
    with pytest.raises(InputError, match="not empty"):
        _export(run)
    run.stage("4_filter").manifest_path.unlink()
    with pytest.raises(RunStateError, match="has not come to its filter"):
        export_run(run, folder / "new", ExportSettings())
    with pytest.raises(RunStateError, match="holds no run"):
        export_run(RunFolder(run.path.parent), folder / "new", ExportSettings())


# --- what is not believed -------------------------------------------------------------------------------------


def test_a_verdict_in_a_file_is_not_believed(run: RunFolder) -> None:
    folder, shared = _export(run)
    _rewrite(folder, corrected_solution="Step 1: It is 1.\nStep 2: The answer is 1.", final_answer="1")
    taken = _import(folder)
    assert taken.claims["accepted"] == shared.splits["train"]
    assert taken.not_as_claimed == 1
    assert taken.corrections[0].verdict == "rejected"
    assert "its final answer 1 is not the gold answer" in str(taken.corrections[0].reason)


@pytest.mark.parametrize("values", [{"incorrect_step": None}, {"incorrect_step": 0}, {"original_steps": []}])
def test_a_correction_without_its_parts_is_never_accepted(run: RunFolder, values: dict[str, object]) -> None:
    folder, _ = _export(run)
    _rewrite(folder, **values)
    assert _import(folder).corrections[0].verdict == "rejected"


def test_the_readers_own_gold_answers_hold(run: RunFolder) -> None:
    folder, _ = _export(run)
    own = read_records(run.path / "0_questions/train.jsonl", Question)
    first = read_records(run.path / "4_filter/accepted.jsonl", Correction)[0].question_id
    changed = [one.model_copy(update={"gold_answer": "7"}) if one.id == first else one for one in own]
    taken = _import(folder, own=changed)
    assert taken.other_gold == 1
    assert taken.not_as_claimed >= 1
    assert taken.questions[first].gold_answer == "7"


def test_another_schema_is_told_column_by_column(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({"problem": "1+1?", "question": "x"}) + "\n")
    with pytest.raises(InputError) as caught:
        _import(path)
    assert "missing: question_id, dataset" in str(caught.value)
    assert "unknown: problem" in str(caught.value)
    assert "--map question=COLUMN" in str(caught.value.hint)


def test_a_newer_version_a_damaged_file_and_an_unknown_place_are_told(run: RunFolder, tmp_path: Path) -> None:
    folder, _ = _export(run)
    facts = json.loads((folder / "lema_dataset.json").read_text())
    write_text(folder / "lema_dataset.json", json.dumps(facts | {"version": 9}))
    with pytest.raises(InputError, match="of version 9"):
        read_source(str(folder))
    (folder / "lema_dataset.json").unlink()
    (folder / "corrections/train-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="is no Parquet file"):
        read_source(str(folder))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/import.json").write_text("{}")
    with pytest.raises(InputError, match="is what an import wrote"):
        read_source(str(tmp_path / "taken"))
    with pytest.raises(InputError, match="no such file or folder: no where"):
        read_source("no where")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file of rows"):
        read_source(str(tmp_path / "empty"))


# --- another group's files ------------------------------------------------------------------------------------

THEIRS = {
    "problem": "Mia has 4 bags of 3 apples. How many apples?",
    "answer": 12,
    "wrong": "4*3=13 apples.\nThe answer is 13.",
    "label": 0,
    "critique": "4*3 is 12.",
    "fixed": "4*3=12 apples.\nThe answer is 12.",
}
MAP = {
    "question": "problem", "gold_answer": "answer", "original_steps": "wrong", "incorrect_step": "label",
    "explanation": "critique", "corrected_solution": "fixed",
}  # fmt: skip


def _theirs(tmp_path: Path, *rows: dict[str, object]) -> Path:
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(THEIRS | row) + "\n" for row in rows))
    return path


def test_other_columns_are_read_by_a_mapping(tmp_path: Path) -> None:
    second = {
        "wrong": ["4*3=12.", "12+1=13.", "The answer is 13."], "label": 1,
        "fixed": "Step 1: 4*3=12.\nStep 2: That is all: 12.\nThe answer is 12.",
    }  # fmt: skip
    taken = _import(_theirs(tmp_path, {}, second), mapping=MAP, is_zero_based=True)
    assert [one.verdict for one in taken.corrections] == ["accepted", "accepted"]
    first, retold = taken.corrections
    assert (first.question_id, first.sample_index, retold.sample_index) == ("theirs/train/00000", 0, 1)
    assert (first.incorrect_step, retold.incorrect_step) == (1, 2)
    assert first.corrected_solution == "Step 1: 4*3=12 apples.\nStep 2: The answer is 12."
    assert retold.corrected_solution == "Step 2: That is all: 12.\nStep 3: The answer is 12."
    assert list(taken.questions) == ["theirs/train/00000"]


def test_what_cannot_be_read_of_theirs_is_rejected_with_its_reason(tmp_path: Path) -> None:
    rows = (
        {"label": None},
        {"fixed": "The answer is 99.", "label": 1},
        {"critique": ""},
        {"label": "Step 1"},
    )
    taken = _import(_theirs(tmp_path, *rows), mapping=MAP)
    assert [one.verdict for one in taken.corrections] == ["rejected", "rejected", "rejected", "accepted"]
    assert taken.not_as_claimed == 3
    assert all(one.reason for one in taken.corrections[:3])


def test_their_rows_join_the_readers_own_questions_by_text(tmp_path: Path) -> None:
    own = Question(
        id="gsm8k/train/7",
        dataset="gsm8k",
        split="train",
        question=THEIRS["problem"].upper(),
        gold_answer="12",
    )
    taken = _import(_theirs(tmp_path, {"label": 1}), mapping=MAP, own=[own])
    assert taken.corrections[0].question_id == "gsm8k/train/7"
    assert taken.questions == {own.id: own}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"question": "nowhere"}, r"no column for question \('nowhere'\), gold_answer"),
        ({"quest": "problem"}, "unknown field 'quest'"),
        (MAP | {"teacher": "who"}, r"no column for teacher \('who'\)"),
    ],
)
def test_a_mapping_that_names_nothing_is_told(tmp_path: Path, mapping: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _import(_theirs(tmp_path, {}), mapping=mapping)


def test_rows_without_a_question_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _import(_theirs(tmp_path, {}, {"problem": ""}, {"answer": None}), mapping=MAP)
    assert "line 2: no question" in str(caught.value)
    assert "line 3: no gold_answer" in str(caught.value)


def test_the_report_of_a_run_from_taken_corrections_is_whole_without_paths(run: RunFolder) -> None:
    shutil.rmtree(run.path / "1_sample")
    correct = run.stage("2_correct")
    manifest = Manifest(stage="correct", fingerprint="f", made_from={}, counts={"taken": 3})
    correct.save_manifest(manifest)
    data = read_run(run)
    assert describe_state(data.stages) == "This run is finished."
    assert data.samples.students == ["quickstart-2m-f16.gguf"]
    correct.save_manifest(manifest.model_copy(update={"counts": {}}))
    assert "1_sample (not run)" in describe_state(read_run(run).stages)
