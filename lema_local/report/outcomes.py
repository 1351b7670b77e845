"""What an evaluation left: the scores, and the arms' greedy answers to the test questions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pydantic import ValidationError

from lema_local.formats import ARMS
from lema_local.jsonl import describe_validation
from lema_local.records import Prediction, Scores
from lema_local.report.data import Change, Outcome, Outcomes, is_base
from lema_local.report.files import RunReader, rank

ARM_ORDER = ("base", "base_zero_shot", *ARMS)
"""Others follow by name."""
EXAMPLES = "examples"
"""Folder in an arm's part of the evaluation: its answers to the questions whose corrections the report shows, in a
folder for each choice of questions."""


def read_scores(reader: RunReader) -> Scores | None:
    """Return a run's scores; None where there are none, or they are damaged (which is told)."""
    text = reader.read_text("8_evaluate/scores.json")
    if text is None:
        return None
    try:
        return Scores.model_validate_json(text)
    except ValidationError as err:
        reader.tell(f"8_evaluate/scores.json is damaged: {describe_validation(err)[:300]}")
        return None


def prediction_files(reader: RunReader) -> dict[tuple[str, str], str]:
    """Return the files of greedy answers by (arm, dataset), unfinished ones too."""
    root = reader.run_dir / "8_evaluate"
    found = {(path.parent.name, path.name.split(".jsonl")[0]) for path in root.glob("*/*.jsonl*")}
    ordered = sorted(found, key=lambda key: (rank(key[0], ARM_ORDER), key[1]))
    return {key: f"8_evaluate/{key[0]}/{key[1]}.jsonl" for key in ordered}


def read_outcomes(reader: RunReader) -> Outcomes:
    """Read every greedy answer once."""
    return {
        key: {
            one.question_id: Outcome(
                one.is_correct is True, one.verdict, (one.final_answer or "")[:80] or None
            )
            for one in reader.read(name, Prediction)
        }
        for key, name in prediction_files(reader).items()
    }


def read_predictions(reader: RunReader, ids: Collection[str]) -> dict[tuple[str, str], list[Prediction]]:
    """Return whole answers by (arm, dataset), those to the named questions only."""
    files = prediction_files(reader) if ids else {}
    return {
        key: [one for one in reader.read(name, Prediction) if one.question_id in ids]
        for key, name in files.items()
    }


def read_example_answers(reader: RunReader, ids: Collection[str]) -> dict[str, list[Prediction]]:
    """Return what the trained arms answer to the training questions whose corrections are shown, by question."""
    root = reader.run_dir / "8_evaluate"
    found: dict[str, dict[str, Prediction]] = {key: {} for key in ids}
    folders = {path.parent for path in root.glob(f"*/{EXAMPLES}/*/*.jsonl*")}
    for folder in sorted(folders, key=lambda path: (rank(path.parents[1].name, ARM_ORDER), path.name)):
        for name in sorted({path.name.split(".jsonl")[0] for path in folder.glob("*.jsonl*")}):
            relative = folder.relative_to(reader.run_dir).as_posix()
            for one in reader.read(f"{relative}/{name}.jsonl", Prediction):
                if one.question_id in found:
                    found[one.question_id][one.arm] = one
    return {key: list(by_arm.values()) for key, by_arm in found.items()}


def count_changes(outcomes: Outcomes) -> Iterator[Change]:
    """Yield for each dataset what each trained arm does where the base was right, and where it was wrong."""
    for dataset in dict.fromkeys(key[1] for key in outcomes):
        base = find_base(outcomes, dataset)
        for arm, other in outcomes:
            if base is not None and other == dataset and not is_base(arm):
                yield _compare(dataset, (base, arm), outcomes[base, dataset], outcomes[arm, dataset])


def find_base(outcomes: Mapping[tuple[str, str], object], dataset: str) -> str | None:
    """Return the row of the untrained student; None where it has not answered."""
    return next((arm for arm, other in outcomes if other == dataset and is_base(arm)), None)


def _compare(
    dataset: str, arms: tuple[str, str], before: Mapping[str, Outcome], after: Mapping[str, Outcome]
) -> Change:
    both = [(before[key], after[key]) for key in before if key in after]
    wrong = [(one, other) for one, other in both if not one.is_correct and not other.is_correct]
    return Change(
        dataset=dataset,
        base=arms[0],
        arm=arms[1],
        questions=len(both),
        both_right=sum(one.is_correct and other.is_correct for one, other in both),
        mended=sum(other.is_correct and not one.is_correct for one, other in both),
        new=sum(one.is_correct and not other.is_correct for one, other in both),
        both_wrong=len(wrong),
        same_answer=sum(
            one.final_answer == other.final_answer for one, other in wrong if one.final_answer is not None
        ),
    )
