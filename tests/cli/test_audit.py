import json
from pathlib import Path

from click.testing import CliRunner, Result

from lema_local.answers import grade_path
from lema_local.cli import lema
from lema_local.jsonl import write_records
from lema_local.records import Prediction, Question, ReasoningPath

GOLD = {"gsm8k/train/0": "18", "gsm8k/train/1": "230", "gsm8k/test/0": "7", "csqa/dev/0": "bank"}
TEXTS = {
    "gsm8k/train/0": "So 9*2=18.\nThe answer is 18.",  # both right
    "gsm8k/train/1": "So it is \x1b[31m230.\n#### 230",  # the paper's scorer knows no ####
    "gsm8k/test/0": "The answer is 10-3:30.",  # the paper's scorer reckons and cuts at the colon
    "csqa/dev/0": "The answer is Bank of course.",  # nearest by letters
}


def _run(*arguments: str) -> Result:
    result = CliRunner().invoke(lema, ["audit", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def _ask(key: str) -> Question:
    dataset, split, _ = key.split("/")
    choices = ["bank", "mall"] if dataset == "csqa" else None
    return Question(
        id=key, dataset=dataset, split=split, question="?", gold_answer=GOLD[key], choices=choices
    )


def _write_run(run: Path) -> Path:
    """Write questions and answers of a run, graded as a run grades them."""
    for folder in ("0_questions", "1_sample", "8_evaluate/base"):
        (run / folder).mkdir(parents=True)
    write_records(run / "0_questions/train.jsonl", [_ask(key) for key in GOLD if "train" in key])
    write_records(run / "0_questions/test.jsonl", [_ask(key) for key in GOLD if "train" not in key])
    paths, predictions = [], []
    for key, text in TEXTS.items():
        grade = grade_path(text, _ask(key))
        shared = {"question_id": key, "sample_index": 0, "text": text, "final_answer": grade.final_answer}
        shared |= {"verdict": grade.verdict, "rule": grade.rule}
        if "train" in key:
            more = {
                "seed": 1,
                "student": "s",
                "stop_reason": "end",
                "prompt_tokens": 1,
                "completion_tokens": 1,
            }
            paths.append(ReasoningPath.model_validate(shared | more))
        else:
            is_correct = grade.verdict == "correct"
            more = {"arm": "base", "gold_answer": GOLD[key], "is_correct": is_correct}
            predictions.append(Prediction.model_validate(shared | more))
    write_records(run / "1_sample/paths.jsonl", paths)
    for dataset in ("gsm8k", "csqa"):
        some = [one for one in predictions if one.question_id.startswith(dataset)]
        write_records(run / f"8_evaluate/base/{dataset}.jsonl", some)
    return run


def test_the_answers_on_which_two_scorers_disagree_are_listed_with_both_verdicts(tmp_path: Path) -> None:
    result = _run(str(_write_run(tmp_path / "run")))

    assert result.exit_code == 0
    assert (
        "1_sample/paths: 2 different answers, 1 disputed: 1 right by this project's scorer alone, 0 by the paper's"
    ) in result.stdout
    assert "gsm8k/train/1, sample 0; gold answer 230" in result.stdout
    assert "lema   correct (numeric): 230" in result.stdout
    assert "paper  wrong (gsm8k): no answer" in result.stdout
    assert "gsm8k/train/0" not in result.stdout
    assert "8_evaluate/base/gsm8k: 1 different answers, 1 disputed: 0 right" in result.stdout
    assert "paper  correct (gsm8k): 7" in result.stdout
    assert "\x1b" not in result.stdout


def test_json_has_every_disputed_answer_with_its_text(tmp_path: Path) -> None:
    run = str(_write_run(tmp_path / "run"))
    found = [json.loads(line) for line in _run(run, "--json").stdout.splitlines()]

    assert [(one["where"], one["question_id"]) for one in found] == [
        ("1_sample/paths", "gsm8k/train/1"),
        ("8_evaluate/base/csqa", "csqa/dev/0"),
        ("8_evaluate/base/gsm8k", "gsm8k/test/0"),
    ]
    assert found[0]["paper"] == {"final_answer": None, "is_correct": False, "scorer": "gsm8k"}
    assert found[0]["text"] == TEXTS["gsm8k/train/1"]
    assert "and 1 more" in _run(run, "--limit", "0").stdout


def test_a_folder_that_is_no_run_or_has_no_answers_is_told(tmp_path: Path) -> None:
    nothing = _run(str(tmp_path))
    (tmp_path / "run/0_questions").mkdir(parents=True)
    write_records(tmp_path / "run/0_questions/train.jsonl", [_ask("gsm8k/train/0")])
    early = _run(str(tmp_path / "run"))

    assert (nothing.exit_code, early.exit_code) == (2, 2)
    assert "holds no run" in nothing.stderr
    assert "has no answers yet" in early.stderr


def test_answers_of_another_run_are_refused(tmp_path: Path) -> None:
    run = _write_run(tmp_path / "run")
    (run / "0_questions/train.jsonl").unlink()

    result = _run(str(run))

    assert result.exit_code == 2
    assert "gsm8k/train/0 is not among the run's questions" in result.stderr
