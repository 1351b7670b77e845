"""Speed of training on this machine: seconds a thousand examples, by method and layout, the embedded student.

    make bench-train
    python benchmarks/bench_train.py --examples 256 --threads 2

The first optimizer step, in which memory is allocated, is not counted. `plain` is peft with transformers' own
Trainer: random order, padded to the longest example of a micro-batch, no gradient checkpointing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lema_local.prompts import load_cot_prompt
from lema_local.quickstart.problems import generate_questions
from lema_local.records import Question, TrainingExample
from lema_local.steps import number_steps, state_answer
from lema_local.training.base import TrainSettings
from lema_local.training.layout import lay_out
from lema_local.training.local import LocalTrainer
from lema_local.training.models import Compute, choose_compute, load_for_training, memory_bytes
from lema_local.training.qlora import Job, fit
from lema_local.training.shapes import read_shape
from lema_local.training.tokens import EncodedExample, Encoder, encode_examples

STUDENT = Path(__file__).parents[1] / "lema_local" / "quickstart" / "student.gguf"
COMMON: dict[str, Any] = {"batch_size": 32, "lora_rank": 32, "has_gradient_checkpointing": False}
ROWS: dict[str, dict[str, Any]] = {
    "default": {},
    "packed": {"is_packed": True},
    "packed, micro-batch 4": {"is_packed": True, "micro_batch_size": 4},
    "padded, micro-batch 4": {"is_packed": False, "micro_batch_size": 4},
    "padded, micro-batch 16": {"is_packed": False, "micro_batch_size": 16},
    "padded, micro-batch 32": {"is_packed": False, "micro_batch_size": 32},
    "gradient checkpointing": {"has_gradient_checkpointing": True},
    "rank 16": {"lora_rank": 16},
    "rank 64": {"lora_rank": 64},
    "no dropout": {"lora_dropout": 0.0},
    "LoRA, not quantized": {"method": "lora"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", action="append", help="a row of the table; repeatable")
    chosen = parser.parse_args()
    base = LocalTrainer(STUDENT).base
    import torch

    torch.set_num_threads(chosen.threads)
    encoder = Encoder(base)
    encoded, _ = encode_examples(encoder, make_examples(chosen.examples), max_length=1024)
    tokens = sum(len(example.input_ids) for example in encoded)
    compute = choose_compute()
    print(
        f"{len(encoded)} examples, {tokens / len(encoded):.0f} tokens each; {chosen.threads} threads, {compute}"
    )
    print(f"{'':26s}{'s per 1,000':>12s}{'CPU s per 1,000':>17s}{'tokens/s':>10s}{'GiB':>6s}")
    for name, changes in ROWS.items():
        if not chosen.only or name in chosen.only:
            show(
                name, encoded, lambda changes=changes: train(base.folder, encoder, encoded, changes, compute)
            )
    if not chosen.only or "plain" in chosen.only:
        show("plain", encoded, lambda: train_plainly(base.folder, encoder, encoded, compute))


Marks = list[tuple[float, float, float]]
"""After each step: wall seconds, processor seconds, memory in GiB."""


def show(name: str, encoded: list[EncodedExample], run: Callable[[], Marks]) -> None:
    marks = run()
    (first_wall, first_cpu, _), (last_wall, last_cpu, _) = marks[0], marks[-1]
    per_example = COMMON["batch_size"] * (len(marks) - 1)
    wall, cpu = (last_wall - first_wall) / per_example, (last_cpu - first_cpu) / per_example
    mean_tokens = sum(len(example.input_ids) for example in encoded) / len(encoded)
    memory = max(mark[2] for mark in marks)
    print(
        f"{name:26s}{1000 * wall:12.1f}{1000 * cpu:17.1f}{mean_tokens / wall:10.0f}{memory:6.1f}", flush=True
    )


def make_examples(count: int) -> list[TrainingExample]:
    """Return gold solutions of generated problems, as in the arm `cot`."""
    prompt = load_cot_prompt("cot-zero-shot")
    questions = [Question.model_validate(one) for one in generate_questions("train", count)]
    return [
        TrainingExample(
            id=question.id, kind="cot", prompt=str(prompt.render(question, "completion")),
            completion=number_steps([*question.gold_rationale.splitlines(), state_answer(question.gold_answer)]),
            question_id=question.id, source={"kind": "gold"},
        )
        for question in questions
        if question.gold_rationale
    ]  # fmt: skip


def train(
    folder: Path, encoder: Encoder, encoded: list[EncodedExample], changes: dict[str, Any], compute: Compute
) -> Marks:
    lengths = [len(one.input_ids) for one in encoded]
    settings = TrainSettings(**{**COMMON, "epochs": 1.0, **changes})
    laid_out = lay_out(settings, compute, read_shape(folder), lengths, memory_bytes(compute)[1])
    marks: Marks = []

    def mark(step: int, steps: int, values: dict[str, float]) -> None:
        marks.append((time.perf_counter(), time.process_time(), values["memory_gib"]))

    with tempfile.TemporaryDirectory() as out:
        job = Job(
            folder,
            encoded,
            laid_out.plan,
            laid_out.settings,
            compute,
            encoder.tokenizer,
            "bench",
            Path(out),
        )
        fit(job, mark, Path(out) / "adapter")
    return marks


def train_plainly(folder: Path, encoder: Encoder, encoded: list[EncodedExample], compute: Compute) -> Marks:
    """Train with peft and transformers' Trainer, as a user without TRL or this project would write it."""
    import datasets
    import psutil
    from peft import LoraConfig, get_peft_model
    from transformers import (
        DataCollatorForSeq2Seq,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from lema_local.training.libraries import quiet_libraries

    marks: Marks = []

    class Mark(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            marks.append(
                (time.perf_counter(), time.process_time(), psutil.Process().memory_info().rss / 2**30)
            )

    settings = TrainSettings(**COMMON)
    with quiet_libraries(), tempfile.TemporaryDirectory() as out:
        model = get_peft_model(
            load_for_training(folder, settings, compute),
            LoraConfig(
                r=settings.lora_rank, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        rows = [{"input_ids": one.input_ids, "labels": one.labels} for one in encoded]
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                out, per_device_train_batch_size=8, gradient_accumulation_steps=COMMON["batch_size"] // 8,
                num_train_epochs=1, use_cpu=not compute.is_cuda, bf16=compute.dtype == "bfloat16", report_to="none",
                disable_tqdm=True, save_strategy="no", dataloader_pin_memory=compute.is_cuda,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            data_collator=DataCollatorForSeq2Seq(encoder.tokenizer),
            callbacks=[Mark()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return marks


if __name__ == "__main__":
    main()
