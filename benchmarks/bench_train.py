"""Speed and memory of training: this project's default, what others do, and its own layouts, side by side.

    make bench-train        the embedded student on this machine's CPU
    make bench-gpu          random weights of the shapes of Qwen2.5-1.5B and Llama-2-7B on a CUDA card
    python benchmarks/bench_train.py --model student --rows default plain "packed, micro-batch 4"

Every row runs in a process of its own, on the same examples (a lema.jsonl that the quickstart's recipe builds on the
spot, or --train), in batches of the same size, in NF4 with an adapter on all linear layers. The first optimizer step,
in which memory is allocated, is not counted; of the others the median is.

  default   this project, with the layout that it chooses for the machine
  8gb 12gb  this project, laid out for such a card, and allowed no more of the card at hand; "..., 1,024 tokens each":
            with every example of that length, the worst case
  plain     peft with transformers' Trainer: random order, padded to the longest of a micro-batch
  trl       TRL's SFTTrainer without packing
  unsloth   Unsloth with TRL, where it is installed

Tokens are useful ones: padding does not count. Without a CUDA card `make bench-gpu` says so and measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lema_local.cli.progress import progress_bar
from lema_local.home import lema_home
from lema_local.jsonl import read_records
from lema_local.pipeline import Pipeline
from lema_local.recipe import load_recipe
from lema_local.records import TrainingExample
from lema_local.runs import RunFolder
from lema_local.training.base import TrainSettings
from lema_local.training.layout import lay_out
from lema_local.training.libraries import quiet_libraries, require_training_libraries
from lema_local.training.models import choose_compute, load_for_training, memory_bytes
from lema_local.training.shapes import read_shape
from lema_local.training.tokens import EncodedExample, Encoder, encode_examples

STUDENT = Path(__file__).parents[1] / "lema_local" / "quickstart" / "student.gguf"
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "llama-2-7b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
    },
    "tiny": {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 700, "tie_word_embeddings": True,
    },
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "default": {},
    "8gb": {"memory": "8gb"},
    "12gb": {"memory": "12gb"},
    "8gb, 1,024 tokens each": {"memory": "8gb"},
    "12gb, 1,024 tokens each": {"memory": "12gb"},
    "packed": {"is_packed": True},
    "packed, micro-batch 4": {"is_packed": True, "micro_batch_size": 4},
    "padded, micro-batch 4": {"is_packed": False, "micro_batch_size": 4},
    "padded, micro-batch 16": {"is_packed": False, "micro_batch_size": 16},
    "padded, micro-batch 32": {"is_packed": False, "micro_batch_size": 32},
    "gradient checkpointing": {"has_gradient_checkpointing": True},
    "rank 16": {"lora_rank": 16},
    "no dropout": {"lora_dropout": 0.0},
    "LoRA, not quantized": {"method": "lora"},
}
OTHERS = ("plain", "trl", "unsloth")
FULL_LENGTH = ", 1,024 tokens each"
EXAMPLES_A_QUESTION = 1.6
"""In the quickstart's lema.jsonl, at least: the gold solution, and a correction where a mistake was corrected."""
CHARACTERS_A_TOKEN = 3.3
"""Of English and arithmetic in a vocabulary of 32,000 to 150,000: gives random models the lengths of real text."""


@dataclass(frozen=True)
class Case:
    """What a row is measured on."""

    model: str
    examples: int
    steps: int
    batch_size: int
    rank: int
    threads: int
    train_path: str | None

    @property
    def settings(self) -> TrainSettings:
        """Of this project, where a row changes nothing."""
        return TrainSettings(batch_size=self.batch_size, lora_rank=self.rank, max_steps=self.steps)


@dataclass(frozen=True)
class Mark:
    """Taken after an optimizer step."""

    wall: float
    cpu: float
    memory_gib: float


@dataclass(frozen=True)
class Found:
    """What a row measured."""

    marks: list[Mark]
    tokens_a_step: float
    trained_a_step: float
    note: str = ""
    estimate_gib: float | None = None

    def a_step(self, name: str) -> float:
        """Return the median of a step's seconds: `wall`, or `cpu`."""
        values = [getattr(mark, name) for mark in self.marks]
        return statistics.median(later - earlier for earlier, later in pairwise(values))

    @property
    def memory_gib(self) -> float:
        """Return the most that was seen after a step."""
        return max(mark.memory_gib for mark in self.marks)


def main() -> None:
    chosen = parse_arguments()
    if chosen.row:
        found = measure(chosen.row, read_case(chosen))
        print(json.dumps(asdict(found)))
        return
    if chosen.gpu and not has_cuda():
        print("No CUDA card here: nothing was measured, and nothing is claimed.")
        return
    models = ("qwen2.5-1.5b", "llama-2-7b") if chosen.gpu else (chosen.model,)
    for model in models:
        chosen.model = model
        preset = {"qwen2.5-1.5b": "8gb", "llama-2-7b": "12gb"}.get(model)
        presets = [preset, f"{preset}{FULL_LENGTH}"] if preset and chosen.gpu else []
        rows = chosen.rows or ["default", *presets, *OTHERS]
        compare(rows, chosen)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["student", *SHAPES], default="student")
    parser.add_argument("--gpu", action="store_true", help="the two large shapes, on a CUDA card")
    parser.add_argument("--rows", nargs="+", choices=[*LAYOUTS, *OTHERS], help="which rows of the table")
    parser.add_argument("--train", dest="train_path", help="a lema.jsonl whose lengths are taken [made here]")
    parser.add_argument("--examples", type=int, help="[256; on a card 2,000]")
    parser.add_argument(
        "--steps", type=int, help="optimizer steps [as many as the examples fill; on a card 4]"
    )
    parser.add_argument("--batch-size", type=int, help="[32; on a card the paper's 96]")
    parser.add_argument("--rank", type=int, help="[32; on a card the paper's 64]")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args()


def read_case(chosen: argparse.Namespace) -> Case:
    is_small = chosen.model in ("student", "tiny")
    examples = chosen.examples or (256 if is_small else 2000)
    batch_size = chosen.batch_size or (32 if is_small else 96)
    steps = chosen.steps or (max(2, examples // batch_size) if is_small else 4)
    rank = chosen.rank or (32 if is_small else 64)
    return Case(chosen.model, examples, steps, batch_size, rank, chosen.threads, chosen.train_path)


def has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


# --- the table ----------------------------------------------------------------------------------------------


def compare(rows: Sequence[str], chosen: argparse.Namespace) -> None:
    """Measure each row in a process of its own and print the table."""
    case = read_case(chosen)
    lengths = [
        len(one.input_ids) for one in load_examples(case)[1]
    ]  # also builds the base before the clock runs
    print(
        f"\n{case.model}: {len(lengths)} examples, {sum(lengths) / len(lengths):.0f} tokens each, the longest"
        f" {max(lengths)}; {case.steps} steps of {case.batch_size}; {describe_machine(case)}"
    )
    print(f"{'':24s}{'tokens/s':>10s}{'trained/s':>11s}{'s a step':>10s}{'CPU s':>8s}{'GiB':>7s}{'est.':>7s}")
    found: dict[str, Found | str] = {}
    for row in rows:
        if row == "unsloth" and importlib.util.find_spec("unsloth") is None:
            print(f"{row:24s}{'not installed':>21s}")
            continue
        found[row] = run_apart(row, chosen)
        show(row, found[row])
    for line in describe_ratios(found):
        print(line)


def describe_ratios(found: dict[str, Found | str]) -> Iterator[str]:
    """Yield how this project's default stands to each of the others."""
    ours = found.get("default")
    for name in OTHERS:
        theirs = found.get(name)
        if isinstance(ours, Found) and isinstance(theirs, Found):
            faster, busier, memory = (
                theirs.a_step("wall") / ours.a_step("wall"),
                theirs.a_step("cpu") / ours.a_step("cpu"),
                ours.memory_gib / theirs.memory_gib,
            )
            yield (
                f"default against {name}: {faster:.2f} x its tokens/s by the clock, {busier:.2f} x by processor time,"
                f" {memory:.2f} x its memory"
            )


def run_apart(row: str, chosen: argparse.Namespace) -> Found | str:
    command = [
        sys.executable,
        __file__,
        "--model",
        chosen.model,
        "--row",
        row,
        "--threads",
        str(chosen.threads),
    ]
    for name in ("examples", "steps", "batch_size", "rank", "train_path"):
        if getattr(chosen, name) is not None:
            flag = "--train" if name == "train_path" else f"--{name.replace('_', '-')}"
            command += [flag, str(getattr(chosen, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"failed: {lines[-1] if lines else done.returncode}"
    raw = json.loads(done.stdout.splitlines()[-1])
    return Found(**{**raw, "marks": [Mark(**mark) for mark in raw["marks"]]})


def show(row: str, found: Found | str) -> None:
    if isinstance(found, str):
        print(f"{row:24s}{found}")
        return
    wall, cpu, memory = found.a_step("wall"), found.a_step("cpu"), found.memory_gib
    estimate = "" if found.estimate_gib is None else f"{found.estimate_gib:.2f}"
    print(
        f"{row:24s}{found.tokens_a_step / wall:10.0f}{found.trained_a_step / wall:11.0f}{wall:10.2f}{cpu:8.2f}"
        f"{memory:7.2f}{estimate:>7s}  {found.note}",
        flush=True,
    )


def describe_machine(case: Case) -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{case.threads} threads of a CPU, torch {torch.__version__}"


# --- what is trained ----------------------------------------------------------------------------------------


def load_examples(case: Case) -> tuple[Path, list[EncodedExample], Any]:
    """Return the base's folder, the examples, and a tokenizer that knows how to pad."""
    from lema_local.training.bases import open_base

    encoder = Encoder(open_base(STUDENT))
    if case.train_path:
        examples = read_records(Path(case.train_path), TrainingExample)[: case.examples]
    else:
        examples = make_examples(case.examples)
    if case.model == "student":
        return open_base(STUDENT).folder, encode_examples(encoder, examples, 1024)[0], encoder.tokenizer
    tokens = fake_tokens(examples, SHAPES[case.model]["vocab_size"])
    return build_base(case.model, encoder.tokenizer), tokens, encoder.tokenizer


def make_examples(count: int) -> list[TrainingExample]:
    """Return so many examples of a lema.jsonl that the quickstart's recipe builds: sampled mistakes, corrected."""
    folder = RunFolder(lema_home() / "bench" / f"examples-{count}")
    path = folder.path / "5_build" / "lema.jsonl"
    if not path.is_file():
        questions = max(32, round(count / EXAMPLES_A_QUESTION))
        recipe = load_recipe(Path("quickstart"), [f"questions.train.limit={questions}"])
        with contextlib.redirect_stdout(sys.stderr):
            Pipeline(recipe, folder, show=progress_bar, tell=lambda line: None, reuse=None).run("build")
    found = read_records(path, TrainingExample)
    return random.Random(0).sample(found, min(count, len(found)))


def fake_tokens(examples: Sequence[TrainingExample], vocabulary: int) -> list[EncodedExample]:
    """Return random tokens, as many as the texts would have: random weights cannot tell the difference."""
    drawn = random.Random(0)
    encoded = []
    for one in examples:
        prompt, completion = (
            max(1, round(len(text) / CHARACTERS_A_TOKEN)) for text in (one.prompt, one.completion)
        )
        ids = [drawn.randrange(vocabulary) for _ in range(min(1024, prompt + completion + 1))]
        encoded.append(EncodedExample(one.id, one.kind, ids, min(prompt, len(ids) - 1)))
    return encoded


def build_base(model: str, tokenizer: Any) -> Path:
    """Write random weights of a known model's shape, once; with a tokenizer, which Unsloth looks for."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = lema_home() / "bench" / model
    if (folder / "config.json").exists():
        return folder
    config = AutoConfig.for_model(**SHAPES[model])
    torch.manual_seed(0)
    tokenizer.save_pretrained(folder)
    with quiet_libraries():
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


# --- the rows -----------------------------------------------------------------------------------------------


def measure(row: str, case: Case) -> Found:
    if row == "unsloth":
        import unsloth  # noqa: F401 - it changes the other libraries, so it has to come before them
    require_training_libraries()
    import torch

    torch.set_num_threads(case.threads)
    folder, encoded, tokenizer = load_examples(case)
    train = {"plain": train_plainly, "trl": train_with_trl, "unsloth": train_with_unsloth}.get(row)
    if row.endswith(FULL_LENGTH):
        encoded = [lengthen(one, 1024) for one in encoded]
    if train is None:
        return train_here(folder, encoded, tokenizer, case, LAYOUTS[row])
    return count_tokens(train(folder, encoded, tokenizer, case), encoded, case)


def lengthen(one: EncodedExample, tokens: int) -> EncodedExample:
    """Return the example repeated until it has so many tokens."""
    ids = (one.input_ids * (tokens // len(one.input_ids) + 1))[:tokens]
    return EncodedExample(one.id, one.kind, ids, min(one.prompt_length, tokens - 1))


def take_mark() -> Mark:
    """Note time and memory once the card has done all it was given."""
    import torch

    from lema_local.training.qlora import memory_gib

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Mark(time.perf_counter(), time.process_time(), memory_gib(choose_compute()))


def count_tokens(marks: list[Mark], encoded: Sequence[EncodedExample], case: Case, **more: Any) -> Found:
    mean = sum(len(one.input_ids) for one in encoded) / len(encoded)
    trained = sum(one.trained_tokens for one in encoded) / len(encoded)
    return Found(marks, mean * case.batch_size, trained * case.batch_size, **more)


def train_here(
    folder: Path, encoded: list[EncodedExample], tokenizer: Any, case: Case, changes: dict[str, Any]
) -> Found:
    from lema_local.training.memory import PRESETS
    from lema_local.training.qlora import Job, fit

    compute, marks = choose_compute(), []
    settings = case.settings.model_copy(update=changes)
    budget = PRESETS.get(settings.memory, memory_bytes(compute)[1])
    if settings.memory in PRESETS and compute.is_cuda:  # a larger card acts as one of this size
        import torch

        torch.cuda.set_per_process_memory_fraction(min(1.0, budget / memory_bytes(compute)[0]))
    lengths = [len(one.input_ids) for one in encoded]
    laid_out = lay_out(settings, compute, read_shape(folder), lengths, budget)

    def mark(step: int, steps: int, values: dict[str, float]) -> None:
        marks.append(take_mark())

    with tempfile.TemporaryDirectory() as out:
        job = Job(folder, encoded, laid_out.plan, laid_out.settings, compute, tokenizer, "bench", Path(out))
        fit(job, mark, Path(out) / "adapter")
    chosen = laid_out.settings
    note = (
        f"{chosen.micro_batch_size} at once, {'packed' if chosen.is_packed else 'padded'},"
        f" activations {'computed twice' if chosen.has_gradient_checkpointing else 'kept'}"
    )
    estimate = None if laid_out.estimate is None else round(laid_out.estimate.total / 2**30, 2)
    return count_tokens(marks, encoded, case, note=note, estimate_gib=estimate)


def common_arguments(out: str, case: Case) -> dict[str, Any]:
    """What a user would ask of transformers for the same training."""
    compute = choose_compute()
    at_once = 4 if compute.is_cuda else 8
    return {
        "output_dir": out, "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": case.batch_size // at_once, "max_steps": case.steps,
        "learning_rate": 2e-4, "lr_scheduler_type": "constant", "max_grad_norm": 0.3, "optim": compute.optimizer,
        "use_cpu": not compute.is_cuda, "bf16": compute.dtype == "bfloat16", "fp16": compute.dtype == "float16",
        "gradient_checkpointing": compute.is_cuda, "report_to": "none", "disable_tqdm": True,
        "save_strategy": "no", "dataloader_pin_memory": compute.is_cuda,
    }  # fmt: skip


def make_lora(case: Case) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=case.rank, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def make_dataset(encoded: Sequence[EncodedExample]) -> Any:
    import datasets

    return datasets.Dataset.from_list([{"input_ids": one.input_ids, "labels": one.labels} for one in encoded])


def marking() -> tuple[list[Mark], Any]:
    """Return a list, and the callback that fills it."""
    from transformers import TrainerCallback

    marks: list[Mark] = []

    class Callback(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            marks.append(take_mark())

    return marks, Callback()


def train_plainly(folder: Path, encoded: list[EncodedExample], tokenizer: Any, case: Case) -> list[Mark]:
    """Train with peft and transformers' Trainer, as a user without TRL or this project would write it."""
    from peft import get_peft_model, prepare_model_for_kbit_training
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

    marks, callback = marking()
    with quiet_libraries(), tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(**common_arguments(out, case))
        model = prepare_model_for_kbit_training(
            load_for_training(folder, case.settings, choose_compute()),
            use_gradient_checkpointing=arguments.gradient_checkpointing,
        )
        trainer = Trainer(
            model=get_peft_model(model, make_lora(case)),
            args=arguments,
            train_dataset=make_dataset(encoded),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return marks


def train_with_trl(folder: Path, encoded: list[EncodedExample], tokenizer: Any, case: Case) -> list[Mark]:
    """Train with TRL's SFTTrainer as it comes, without packing."""
    with quiet_libraries():
        model = load_for_training(folder, case.settings, choose_compute())
        return fit_with_trl(model, make_lora(case), encoded, tokenizer, case)


def train_with_unsloth(folder: Path, encoded: list[EncodedExample], tokenizer: Any, case: Case) -> list[Mark]:
    """Train with Unsloth's model under TRL, as its notebooks do."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(str(folder), max_seq_length=1024, load_in_4bit=True)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(
        model, r=case.rank, lora_alpha=16, lora_dropout=0.0, target_modules=modules,
        use_gradient_checkpointing="unsloth",
    )  # fmt: skip
    return fit_with_trl(model, None, encoded, tokenizer, case)


def fit_with_trl(
    model: Any, lora: Any, encoded: list[EncodedExample], tokenizer: Any, case: Case
) -> list[Mark]:
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    marks, callback = marking()
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                **common_arguments(out, case), packing=False, max_length=1024, remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            train_dataset=make_dataset(encoded),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[callback],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return marks


if __name__ == "__main__":
    main()
