"""`datasets.load_dataset` by name, on folders laid out as the repositories on the hub are (as their cards say)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")

CSQA = {
    "id": "x1",
    "question": "Where?",
    "question_concept": "door",
    "choices": {"label": ["A", "B"], "text": ["bank", "mall"]},
    "answerKey": "B",
}
MATH = {"problem": "1+1?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{2}$."}
SUBJECTS = (
    "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus"
)

# repository: {(config, split): rows}
REPOSITORIES: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {
    "openai/gsm8k": {
        ("main", "train"): [{"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}],
        ("main", "test"): [{"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"}],
        ("socratic", "test"): [{"question": "wrong", "answer": "#### 0"}],
    },
    "EleutherAI/hendrycks_math": {(name, "train"): [MATH] for name in SUBJECTS.split()},
    "HuggingFaceH4/MATH-500": {
        ("default", "test"): [
            {
                "problem": "2+1?",
                "solution": "It is $\\boxed{3}$.",
                "answer": "3",
                "subject": "Algebra",
                "level": 2,
                "unique_id": "test/algebra/7.json",
            }
        ]
    },
    "ChilleD/SVAMP": {
        ("default", split): [{"ID": name, "Body": "Two hens", "Question": "How many?", "Answer": "2.0", "Type": "Sum"}]
        for split, name in (("train", "chal-1"), ("test", "chal-2"))
    },
    "tau/commonsense_qa": {("default", "validation"): [CSQA]},
    "deepmind/aqua_rat": {
        ("raw", "validation"): [{"question": "?", "options": ["A)5", "B)6"], "rationale": "r", "correct": "B"}]
    },
    "EleutherAI/asdiv": {
        ("asdiv", "validation"): [
            {"body": "Nine.", "question": "How many?", "solution_type": "Sum", "answer": answer, "formula": "9=9"}
            for answer in ("9 (apples)", "2:3")
        ]
    },
    "MU-NLPC/Calc-mawps": {
        ("default", "test"): [{"id": "m1", "question": "1+2?", "chain": "c", "result": "3", "result_float": 3.0}]
    },
}  # fmt: skip


def _lay_out(root: Path) -> None:
    for repository, files in REPOSITORIES.items():
        folder = root / repository
        configs: dict[str, list[dict[str, str]]] = {}
        for (config, split), rows in files.items():
            path = folder / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            configs.setdefault(config, []).append({"split": split, "path": f"{config}/{split}.jsonl"})
        card = [{"config_name": name, "data_files": files} for name, files in configs.items()]
        # YAML reads JSON.
        text = f"---\nconfigs: {json.dumps(card)}\n---\n"
        (folder / "README.md").write_text(text, encoding="utf-8")


CODE = """
import json, sys
from lema_local.datasets import load_questions
found = {spec: [one.model_dump(mode="json") for one in load_questions(spec)] for spec in sys.argv[1:]}
print(json.dumps(found))
"""


def test_every_dataset_is_read_by_name_from_what_the_hub_has(tmp_path: Path) -> None:
    _lay_out(tmp_path)
    specs = ["gsm8k", "gsm8k@test", "math", "math500", "svamp", "csqa@dev", "aqua@dev", "asdiv", "mawps@test"]

    run = subprocess.run(
        [sys.executable, "-c", CODE, *specs],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {spec: [(one["id"], one["gold_answer"]) for one in found[spec]] for spec in specs} == {
        "gsm8k": [("gsm8k/train/00000", "2")],
        "gsm8k@test": [("gsm8k/test/00000", "4")],
        "math": [(f"math/train/{number:05d}", "2") for number in range(7)],
        "math500": [("math500/test/algebra/7.json", "3")],
        "svamp": [("svamp/test/chal-1", "2.0"), ("svamp/test/chal-2", "2.0")],
        "csqa@dev": [("csqa/dev/x1", "mall")],
        "aqua@dev": [("aqua/dev/00000", "B")],
        "asdiv": [("asdiv/test/00000", "9")],
        "mawps@test": [("mawps/test/00000", "3")],
    }
    assert found["math500"][0]["tags"] == {"level": "Level 2", "subject": "Algebra"}
    assert "openai/gsm8k has 1 questions; the published gsm8k/test has 1319" in run.stderr
    assert "EleutherAI/asdiv: 1 of 2 records left out" in run.stderr


def test_a_split_that_the_hub_lacks_is_told(tmp_path: Path) -> None:
    from lema_local.datasets import load_questions
    from lema_local.errors import InputError

    with pytest.raises(InputError, match="mawps@addsub is not on the hub") as caught:
        load_questions("mawps@addsub")

    assert "mawps:PATH" in str(caught.value.hint)
