import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lema_local.datasets import (
    DATASETS,
    is_held_out,
    load_questions,
    parse_mapping,
    read_questions,
    split_validation,
)
from lema_local.datasets.loading import parse_spec
from lema_local.errors import BackendUnavailable, InputError
from lema_local.prompts import load_correction_prompt, load_cot_prompt
from lema_local.records import Question

GSM8K = {
    "question": "Natalia sold 48 clips in April and half as many in May. How many in all?",
    "answer": "In May she sold 48/2 = <<48/2=24>>24.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
}


def _write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _ask(number: int, **values: Any) -> Question:
    known = {
        "id": f"own/train/{number:05d}",
        "dataset": "own",
        "split": "train",
        "question": "?",
        "gold_answer": "1",
    }
    return Question.model_validate(known | values)


def test_gsm8k_is_read_in_its_released_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _write(tmp_path / "train.jsonl", GSM8K, GSM8K | {"answer": "#### 1,000"})

    with caplog.at_level(logging.WARNING):
        first, second = load_questions(f"gsm8k:{path}")

    assert first.id == "gsm8k/train/00000"
    assert (first.dataset, first.split, first.gold_answer) == ("gsm8k", "train", "72")
    assert first.gold_rationale == "In May she sold 48/2 = <<48/2=24>>24.\nIn all 48+24 = <<48+24=72>>72."
    assert first.tags == {"steps": "2"}
    assert (second.id, second.gold_answer, second.gold_rationale) == ("gsm8k/train/00001", "1000", None)
    assert "2 questions; the published gsm8k/train has 7473" in caplog.text


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("gsm8k:DIR/train.jsonl", ("gsm8k", "train.jsonl", None)),
        ("gsm8k:DIR/train.jsonl@test", ("gsm8k", "train.jsonl", "test")),
        ("gsm8k:DIR@train", ("gsm8k", "", "train")),
        ("own:DIR/train.jsonl", ("own", "train.jsonl", None)),
        ("DIR/train.jsonl", (None, "train.jsonl", None)),
        ("DIR/train.jsonl@test", (None, "train.jsonl", "test")),
        ("DIR/odd@name.jsonl", (None, "odd@name.jsonl", None)),
    ],
)
def test_a_spec_is_taken_apart(
    tmp_path: Path, spec: str, expected: tuple[str | None, str, str | None]
) -> None:
    for name in ("train.jsonl", "odd@name.jsonl"):
        (tmp_path / name).touch()

    found = parse_spec(spec.replace("DIR", str(tmp_path)))

    assert (found.dataset, found.path, found.split) == (expected[0], tmp_path / expected[1], expected[2])


def test_a_bare_name_is_the_hub_s() -> None:
    assert parse_spec("gsm8k").path is None
    assert parse_spec("gsm8k@test").split == "test"


def test_an_unknown_name_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such question file or dataset: gsm8") as caught:
        load_questions("gsm8")

    assert "did you mean 'gsm8k'?" in str(caught.value.hint)


def test_the_hub_out_of_reach_is_a_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(BackendUnavailable, match="openai/gsm8k") as caught:
        load_questions("gsm8k")

    assert "released file" in str(caught.value.hint)


def test_an_unknown_split_is_told_with_the_known_ones(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", GSM8K)

    with pytest.raises(InputError, match="gsm8k has no split 'dev'") as caught:
        load_questions(f"gsm8k:{path}@dev")

    assert "train, test" in str(caught.value.hint)


def test_a_split_that_the_name_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path / "questions.jsonl", GSM8K)

    with pytest.raises(InputError, match="cannot tell") as caught:
        load_questions(f"gsm8k:{path}")

    assert "@train" in str(caught.value.hint)
    assert load_questions(f"gsm8k:{path}@test")[0].id == "gsm8k/test/00000"


def test_a_folder_with_several_splits_asks_for_one(tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl", GSM8K)
    _write(tmp_path / "test.jsonl", GSM8K)

    with pytest.raises(InputError, match="several splits"):
        load_questions(f"gsm8k:{tmp_path}")
    assert load_questions(f"gsm8k:{tmp_path}@test")[0].split == "test"


def test_bad_lines_are_all_told_up_to_twenty_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = ["{broken", json.dumps(GSM8K | {"answer": "no gold"}), json.dumps({"question": "?"}), "[1]"]
    path.write_text("\n".join(lines + [json.dumps(GSM8K | {"question": " "})] * 21) + "\n", encoding="utf-8")

    with pytest.raises(InputError) as caught:
        load_questions(f"gsm8k:{path}")

    message = str(caught.value)
    assert f"{path} has 25 problem(s)" in message
    assert "line 2: no final answer behind '####'" in message
    assert "line 3: no field 'answer' (found: question)" in message
    assert "the field 'question' is empty" in message
    assert "and 5 more" in message


def test_wrong_bytes_are_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(GSM8K).encode() + b'\n{"question": "caf\xe9", "answer": "#### 1"}\n')

    with pytest.raises(InputError, match="line 2: not valid UTF-8"):
        load_questions(f"gsm8k:{path}")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GSM8K).encode() + b"\r\n")

    assert load_questions(f"gsm8k:{path}")[0].gold_answer == "72"


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_questions_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(InputError, match="has no questions"):
        load_questions(f"gsm8k:{path}")


def test_a_missing_file_is_told() -> None:
    with pytest.raises(InputError, match=r"no such file: /nowhere/train\.jsonl"):
        load_questions("gsm8k:/nowhere/train.jsonl")


def test_the_project_s_own_form_is_read_back(tmp_path: Path) -> None:
    questions = [_ask(0), _ask(1, gold_answer="2\\sqrt{3}"), _ask(2, gold_answer="B", choices=["a", "b"])]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(question.model_dump_json() + "\n" for question in questions), encoding="utf-8")

    assert read_questions(path) == questions
    assert load_questions(str(path), limit=2) == questions[:2]


def test_repeated_ids_and_golds_that_do_not_parse_are_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [_ask(0), _ask(1, gold_answer="\\frac{1}{"), _ask(0), _ask(3, question=" ")]
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")

    with pytest.raises(InputError) as caught:
        read_questions(path)

    message = str(caught.value)
    assert "line 3: the id 'own/train/00000' stands at line 1 already" in message
    assert "line 2: the gold answer '\\\\frac{1}{' does not parse" in message
    assert "line 4: the question is empty" in message


def test_own_jsonl_is_read_by_a_mapping(tmp_path: Path) -> None:
    rows = [
        {"problem": "1+1?", "expected_answer": 2, "solution": "1+1=2", "meta": {"key": "a1"}},
        {"problem": "1+2?", "expected_answer": 3.0, "solution": "", "meta": {"key": "a2"}},
    ]
    path = _write(tmp_path / "my questions.jsonl", *rows)

    mapping = parse_mapping(
        "question=problem, gold_answer=expected_answer,gold_rationale=solution,id=meta.key"
    )
    first, second = load_questions(f"own:{path}", mapping=mapping)

    assert (first.id, first.dataset, first.split) == ("a1", "my-questions", "train")
    assert (first.gold_answer, first.gold_rationale) == ("2", "1+1=2")
    assert (second.gold_answer, second.gold_rationale) == ("3", None)


def test_own_csv_is_read_with_lines_inside_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        'question,gold_answer,choices\n"How\nmany?",5,\n"Which, then?",B,one|two\n', encoding="utf-8"
    )

    first, second = load_questions(f"own:{path}@test")

    assert (first.id, first.question, first.choices) == ("mine/test/00000", "How\nmany?", None)
    assert (second.gold_answer, second.choices) == ("B", ["one", "two"])


def test_own_csv_s_problems_are_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('question,gold_answer\n"a\nb",5\nshort\nx,,\ny,\n', encoding="utf-8")

    with pytest.raises(InputError) as caught:
        load_questions(f"own:{path}")

    message = str(caught.value)
    assert "line 4: 2 columns expected" in message
    assert "line 6: the field 'gold_answer' is empty" in message


def test_a_json_list_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"question": "1+1?", "gold_answer": "2"}, 5]), encoding="utf-8")

    with pytest.raises(InputError, match="record 2: not an object"):
        load_questions(f"own:{path}")


def test_a_gold_answer_with_its_solution_is_taken_apart(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", {"question": "?", "answer": GSM8K["answer"]})

    question = load_questions(f"own:{path}", mapping={"gold_answer": "answer"})[0]

    assert question.gold_answer == "72"
    assert question.gold_rationale is not None


def test_a_missing_field_is_told_with_those_found(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", {"problem": "?", "answer": "1"})

    with pytest.raises(InputError, match=r"no field 'question' for|no field 'gold_answer' for") as caught:
        load_questions(f"own:{path}")

    assert "found: problem, answer" in str(caught.value)
    assert "--map" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["question", "question=", "=problem", ","])
def test_a_mapping_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="cannot read the mapping"):
        parse_mapping(text)


def test_an_unknown_field_in_a_mapping_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", {"question": "?", "answer": "1"})

    with pytest.raises(InputError, match="did you mean 'gold_answer'"):
        load_questions(f"own:{path}", mapping={"gold_answr": "answer"})


def test_a_mapping_goes_with_own_files_only(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", GSM8K)

    with pytest.raises(InputError, match="goes with own:FILE"):
        load_questions(f"gsm8k:{path}", mapping={"question": "problem"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,question,gold_answer\na,b,2\n", "line 1: several columns are called 'question'"),
        ("a.csv", 'question,gold_answer\n1?,2\n"b,2\n"d,e\n', "line 3: "),
        ("a.csv", "question,gold_answer\n", "has no questions"),
        ("a.csv", "question;gold_answer\n1?;2\n", "no field 'gold_answer'"),
        ("a.jsonl", '{"question": "?", "gold_answer": null}\n', "line 1: the field 'gold_answer' is null"),
        ("a.jsonl", '{"question": "?", "gold_answer": 1e999}\n', "line 1: the field 'gold_answer' is inf"),
        ("a.json", '[{"question": "?"', "not valid JSON"),
    ],
)
def test_odd_files_of_one_s_own_are_told(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")

    with pytest.raises(InputError) as caught:
        load_questions(f"own:{tmp_path / name}")

    assert message in str(caught.value)


def test_a_folder_is_no_file_of_one_s_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_questions(f"own:{tmp_path}")


def test_asdiv_is_read_from_its_xml_and_keeps_numbers(tmp_path: Path) -> None:
    path = tmp_path / "ASDiv.xml"
    path.write_text(
        """<?xml version="1.0" encoding="UTF-8"?>
        <Machine-Reading-Corpus-File><ProblemSet>
        <Problem ID="nluds-0001" Grade="1" Source="x"><Body>Seven apples and two.</Body><Question>How many?</Question>
        <Solution-Type>Addition</Solution-Type><Answer>9 (apples)</Answer><Formula>7+2=9</Formula></Problem>
        <Problem ID="nluds-0002" Grade="1" Source="x"><Body>A ratio.</Body><Question>Which?</Question>
        <Solution-Type>Ratio</Solution-Type><Answer>3:4</Answer><Formula>x</Formula></Problem>
        </ProblemSet></Machine-Reading-Corpus-File>""",
        encoding="utf-8",
    )

    (question,) = load_questions(f"asdiv:{path}")

    assert (question.id, question.gold_answer) == ("asdiv/test/nluds-0001", "9")
    assert question.question == "Seven apples and two. How many?"


PROBLEM = {"problem": "?", "level": "Level 4", "type": "Algebra", "solution": "so $\\boxed{5}$"}


def _release_math(folder: Path) -> Path:
    """Lay MATH out as it is released: one JSON file a problem."""
    for name in (
        "train/algebra/10.json",
        "train/algebra/9.json",
        "train/geometry/1.json",
        "test/algebra/2.json",
    ):
        path = folder / "MATH" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(PROBLEM | {"problem": name}), encoding="utf-8")
    (folder / "MATH/train/algebra/._9.json").write_bytes(b"\0\5\26\7")  # what macOS puts into archives
    return folder / "MATH"


@pytest.mark.parametrize("form", ["folder", "split's folder", "tar", "tar.gz"])
def test_math_is_read_in_its_released_form(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _release_math(tmp_path)
    spec = {"folder": f"math:{folder}@train", "split's folder": f"math:{folder}/train"}.get(form)
    if spec is None:
        archive = tmp_path / f"MATH.{form}"
        with tarfile.open(archive, "w:gz" if form == "tar.gz" else "w") as tar:
            tar.add(folder, "MATH")
        spec = f"math:{archive}@train"

    found = load_questions(spec)

    names = ["train/algebra/9.json", "train/algebra/10.json", "train/geometry/1.json"]
    assert [(one.id, one.question) for one in found] == [(f"math/{name}", name) for name in names]
    assert found[0].tags == {"level": "Level 4", "subject": "Algebra"}
    assert "has 3 questions; the published math/train has 7500" in caplog.text


def test_what_is_wrong_with_math_s_files_is_told_by_name(tmp_path: Path) -> None:
    folder = _release_math(tmp_path)
    (folder / "train/algebra/9.json").write_text("{", encoding="utf-8")
    (folder / "train/geometry/1.json").write_text("[]", encoding="utf-8")

    with pytest.raises(InputError, match=r"has 2 problem\(s\)") as caught:
        load_questions(f"math:{folder}@train")

    assert "train/algebra/9.json: not valid JSON" in str(caught.value)
    assert "train/geometry/1.json: no JSON object but list" in str(caught.value)
    with pytest.raises(InputError, match="several splits of math: train, test"):
        load_questions(f"math:{folder}")


def test_a_torn_archive_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "MATH.tar.gz"
    archive.write_bytes(b"\x1f\x8b\x08\0torn")

    with pytest.raises(InputError, match=r"cannot read .*MATH\.tar\.gz"):
        load_questions(f"math:{archive}@train")


def test_math_takes_its_gold_from_the_box_and_leaves_out_what_has_none(tmp_path: Path) -> None:
    row = {"problem": "?", "level": "Level 4", "type": "Algebra", "solution": "so $\\boxed{\\frac{1}{2}}$"}
    path = _write(tmp_path / "train.jsonl", row, row | {"solution": "primes \\boxed{}$ there"})

    (question,) = load_questions(f"math:{path}")

    assert (question.gold_answer, question.tags) == (
        "\\frac{1}{2}",
        {"level": "Level 4", "subject": "Algebra"},
    )


@pytest.mark.parametrize(
    "row",
    [
        {
            "answerKey": "B",
            "id": "x1",
            "question": {
                "question_concept": "door",
                "stem": "Where?",
                "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "mall"}],
            },
        },
        {
            "answerKey": "B",
            "id": "x1",
            "question_concept": "door",
            "question": "Where?",
            "choices": {"label": ["A", "B"], "text": ["bank", "mall"]},
        },
    ],
    ids=["release", "hub"],
)
def test_csqa_is_read_in_the_release_s_form_and_in_the_hub_s(tmp_path: Path, row: dict[str, Any]) -> None:
    (question,) = load_questions(f"csqa:{_write(tmp_path / 'dev.jsonl', row)}")

    assert question.id == "csqa/dev/x1"
    assert (question.question, question.gold_answer, question.choices) == ("Where?", "mall", ["bank", "mall"])


def test_aqua_s_options_lose_their_letters(tmp_path: Path) -> None:
    row = {"question": "?", "options": ["A)32400", "B)6000"], "rationale": "r", "correct": "A"}

    (question,) = load_questions(f"aqua:{_write(tmp_path / 'dev.json', row)}")

    assert (question.gold_answer, question.choices) == ("A", ["32400", "6000"])


def test_every_dataset_has_its_prompts() -> None:
    for dataset in DATASETS.values():
        asked = _ask(0, dataset=dataset.name, choices=["a", "b"] if dataset.answer_kind == "choice" else None)
        prompt = load_cot_prompt(dataset.prompt)
        assert len(prompt.examples) >= 4
        assert all((one.choices is None) == (asked.choices is None) for one in prompt.examples)
        assert ("(A) a, (B) b" in str(prompt.render(asked, "completion"))) == (asked.choices is not None)
        assert len(load_correction_prompt(dataset.correction_prompt).examples) >= 4


def test_evaluation_splits_are_known() -> None:
    assert is_held_out(_ask(0, dataset="gsm8k", split="test"))
    assert is_held_out(_ask(0, dataset="csqa", split="dev"))
    assert is_held_out(_ask(0, dataset="mine", split="test"))
    assert is_held_out(_ask(0, dataset="gsm8k", split="validation"))
    assert not is_held_out(_ask(0, dataset="gsm8k", split="train"))
    assert not is_held_out(_ask(0, dataset="aqua", split="dev"))


def test_a_validation_split_depends_on_the_ids_alone() -> None:
    questions = [_ask(number) for number in range(200)]

    training, validation = split_validation(questions, 0.1)
    _, again = split_validation(list(reversed(questions)), 20)

    assert (len(training), len(validation)) == (180, 20)
    assert {question.id for question in validation} == {question.id for question in again}
    assert {question.split for question in validation} == {"validation"}
    assert not {question.id for question in training} & {question.id for question in validation}
    assert training == [question for question in questions if question in training]


def test_no_validation_split_may_be_asked_for() -> None:
    assert split_validation([_ask(0)], 0) == ([_ask(0)], [])


@pytest.mark.parametrize("size", [2, 3, -1])
def test_a_validation_split_leaves_something_to_train_on(size: int) -> None:
    with pytest.raises(InputError, match="validation split"):
        split_validation([_ask(0), _ask(1)], size)


REAL = {
    "gsm8k:gsm8k/train.jsonl": 7473,
    "math:math/train.jsonl": 7498,  # two solutions of the release have no answer
    "svamp:svamp/SVAMP.json": 1000,
    "mawps:mawps": 2065,
    "aqua:aqua/dev.json": 254,
    "csqa:commonsenseqa/dev_rand_split.jsonl": 1221,
    "csqa:commonsenseqa@train": 9741,
}


@pytest.mark.parametrize(("spec", "size"), REAL.items())
def test_the_released_files_have_their_published_sizes(
    spec: str, size: int, lema_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, _, path = spec.partition(":")

    with caplog.at_level(logging.WARNING):
        questions = load_questions(f"{name}:{lema_data / path}")

    assert len(questions) == size
    assert len({question.id for question in questions}) == size
    assert all(question.split in DATASETS[name].splits for question in questions)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == (
        ["2 of 7500 records left out, their solutions state no answer"] if name == "math" else []
    )
