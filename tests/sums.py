"""Mistakes in sums, which the fake teacher can correct."""

from __future__ import annotations

import json
from pathlib import Path


def write_inputs(folder: Path, count: int) -> None:
    """Write `count` questions and one wrong path for each."""
    questions, paths = [], []
    for number in range(count):
        a, b = number * 3 + 2, number + 5
        step = f"{a} + {b} = {a + b + 1}"
        questions.append(
            {
                "id": f"q{number}",
                "dataset": "own",
                "split": "train",
                "question": f"What is {a} + {b}?",
                "gold_answer": str(a + b),
                "gold_rationale": f"{a} + {b} = {a + b}.",
            }
        )
        paths.append(
            {
                "question_id": f"q{number}",
                "sample_index": 0,
                "seed": 1,
                "student": "s",
                "text": f"Step 1: {step}.\nStep 2: The answer is {a + b + 1}.",
                "final_answer": str(a + b + 1),
                "verdict": "wrong",
                "rule": "numeric",
                "stop_reason": "end",
                "prompt_tokens": 1,
                "completion_tokens": 1,
            }
        )
    for name, records in (("questions", questions), ("paths", paths)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
