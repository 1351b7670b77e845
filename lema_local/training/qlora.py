"""Fitting an adapter: TRL's SFTTrainer (or DPOTrainer) with peft and bitsandbytes, one code path for GPU and CPU.

Reads   a base folder, encoded examples, settings
Writes  OUT/adapter/ (renamed into place, last), OUT/train_log.jsonl, OUT/checkpoints/ while it runs
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lema_local.errors import BackendError, BackendUnavailable, LemaError
from lema_local.jsonl import AppendFile, told_disk_errors
from lema_local.training.base import OnProgress, Tell, TrainSettings, ignore
from lema_local.training.batches import BatchPlan
from lema_local.training.checkpoints import (
    KEPT,
    LogLine,
    last_checkpoint,
    mark_complete,
    rewind_log,
    room_for,
)
from lema_local.training.libraries import quiet_libraries
from lema_local.training.models import Compute, load_for_training, read_dtype
from lema_local.training.preference import collate_pairs, make_pair_trainer, pair_config
from lema_local.training.processes import Processes
from lema_local.training.tokens import Encoded, EncodedExample, EncodedPair
from lema_local.training.validation import (
    BEST,
    BEST_NAME,
    VALIDATION_LOG_NAME,
    Looks,
    ValidationLine,
    measure_loss,
    read_best,
)

CHECKPOINTS = "checkpoints"
LOG_NAME = "train_log.jsonl"


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that one training needs."""

    base_folder: Path
    examples: Sequence[Encoded]
    plan: BatchPlan
    settings: TrainSettings
    compute: Compute
    tokenizer: Any
    fingerprint: str
    out_dir: Path
    held_out: Sequence[Sequence[EncodedExample]] = ()
    """Rows of examples to look at on the way."""
    answer: Callable[[Path], float] | None = None
    """Pass@1 of an adapter's folder on the held-out questions."""
    start_from: Path | None = None
    """An adapter's folder that training goes on from; None: a new adapter."""
    processes: Processes = Processes()  # noqa: RUF009 - frozen
    tell: Tell = ignore

    @property
    def is_paired(self) -> bool:
        """True where the examples are pairs."""
        return isinstance(self.examples[0], EncodedPair)


@dataclass(slots=True)
class Outcome:
    """What a training measured."""

    log: list[LogLine] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    resumed_at: int = 0
    best: ValidationLine | None = None
    """The look whose adapter was kept; None: the last step's was."""


def fit(job: Job, on_progress: OnProgress, save_to: Path) -> Outcome:
    """Train, going on from the last checkpoint, and save the adapter into `save_to`.

    Raises:
        BackendError: If loss or gradient is no longer a number, or memory runs out; checkpoints stay.
        RunStateError: If the checkpoints belong to another training.
    """
    started = time.monotonic()
    job.out_dir.mkdir(parents=True, exist_ok=True)
    is_main = job.processes.is_main
    found = last_checkpoint(job.out_dir / CHECKPOINTS, job.fingerprint, may_remove=is_main)
    checkpoint, step = found if found else (None, 0)
    with quiet_libraries() as warned, contextlib.ExitStack() as stack:
        log = stack.enter_context(AppendFile(job.out_dir / LOG_NAME)) if is_main else None
        outcome = Outcome(_rewind(job, step), resumed_at=step)
        journal = _Journal(job, outcome, log, on_progress, started)
        trainer = _make_trainer(job, journal)
        _run(trainer, checkpoint, job.out_dir)
        best = read_best(job.out_dir / BEST, job.fingerprint) if job.held_out else None
        if best is None:
            _save(trainer, job, save_to)
        elif is_main:
            (job.out_dir / BEST).replace(save_to)
            (save_to / BEST_NAME).unlink()
            outcome.best = best.line
    outcome.warnings = warned
    return outcome


def _rewind(job: Job, step: int) -> list[LogLine]:
    """Drop from the logs what will be done again; only the main process has any."""
    if not job.processes.is_main:
        return []
    rewind_log(job.out_dir / VALIDATION_LOG_NAME, step, ValidationLine)
    return rewind_log(job.out_dir / LOG_NAME, step, LogLine)


def _save(trainer: Any, job: Job, folder: Path) -> None:
    """Write the adapter; of a whole model the weights in the base's type, with its tokenizer."""
    if job.processes.is_sharded:
        trainer.save_model(str(folder))  # gathers the parts; every process takes part
        return
    if not job.processes.is_main:
        return
    if job.settings.method != "full":
        trainer.model.save_pretrained(folder, save_embedding_layers=False)
        return
    dtype = read_dtype(job.base_folder)
    weights = {name: weight.to(dtype) for name, weight in trainer.model.state_dict().items()}
    trainer.model.save_pretrained(folder, state_dict=weights)
    job.tokenizer.save_pretrained(folder)


def _run(trainer: Any, checkpoint: Path | None, out_dir: Path) -> None:
    import torch
    from safetensors import SafetensorError

    try:
        with told_disk_errors(out_dir):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as err:
        raise _out_of_memory(err) from err
    except SafetensorError as err:
        raise _disk_full(out_dir, err) from err
    except RuntimeError as err:  # torch has no class of its own for these two
        if "can't allocate memory" in str(err):
            raise _out_of_memory(err) from err
        if "PytorchStreamWriter" in str(err) or "inline_container" in str(err):
            raise _disk_full(out_dir, err) from err
        raise


def wait_for_everyone() -> None:
    """Return when all processes of a training are here; at once where there is only one."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def _out_of_memory(err: Exception) -> BackendError:
    return BackendError(
        f"out of memory in training: {str(err).splitlines()[0]}",
        hint="lower train.micro_batch_size or turn gradient checkpointing on: the result stays the same",
    )


def _disk_full(out_dir: Path, err: Exception) -> LemaError:
    return LemaError(
        f"cannot write a checkpoint in {out_dir}: {str(err).splitlines()[0]}; the one before it is kept",
        hint="free some space, then run the same command again",
    )


def _check_room(job: Job, trainable: int) -> None:
    """Before the first step: is there room for what is kept?

    Raises:
        LemaError: If it would not fit on the disk.
    """
    needed = room_for(trainable, has_held_out=bool(job.held_out))
    out_dir = job.out_dir
    free = shutil.disk_usage(out_dir).free
    if free < needed:
        raise LemaError(
            f"no room for checkpoints in {out_dir}: {needed / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB free",
            hint="free some space, or give a folder on a larger disk",
        )


def _make_trainer(job: Job, journal: _Journal) -> Any:
    import datasets
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    _check_reporting(job)
    config = pair_config(_arguments(job), job.settings) if job.is_paired else SFTConfig(**_arguments(job))
    if job.processes.count == 1 and config.n_gpu > 1:
        config._n_gpu = 1  # transformers would take all cards, which TRL refuses
    is_sharded = job.processes.is_sharded
    model = load_for_training(job.base_folder, job.settings, job.compute, is_sharded=is_sharded)
    if job.start_from is not None:
        model = _with_adapter(model, job)
    callback, validate = _make_callback(journal)
    trainer = (make_pair_trainer if job.is_paired else SFTTrainer)(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_dict({"positions": job.plan.micro_batches}),
        data_collator=_make_collator(job),
        processing_class=job.tokenizer,
        peft_config=None if job.settings.method == "full" or job.start_from else _lora_config(job.settings),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    for parameter in trained:
        # TRL makes a quantized model's adapter bfloat16, where a step of the learning rate is lost in rounding.
        # Spread over cards (FSDP), all parts of a layer have to be of one type.
        parameter.data = parameter.data if is_sharded else parameter.data.float()
    _check_room(job, sum(parameter.numel() for parameter in trained))
    if job.held_out:
        validate(_make_looks(job, trainer))
    return trainer


def _with_adapter(model: Any, job: Job) -> Any:
    """Return the model with the adapter that training goes on from."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(job.start_from), is_trainable=True)


def _make_looks(job: Job, trainer: Any) -> Looks:
    collate = _make_collator(job)

    def measure() -> float:
        rows = ({"examples": row} for row in job.held_out)
        return measure_loss(trainer, (collate([row]) for row in rows))

    return Looks(
        job.out_dir,
        job.fingerprint,
        measure,
        lambda folder: _save(trainer, job, folder),
        job.answer,
        job.settings.validate_answers_every,
        is_main=job.processes.is_main,
        keeps_all=job.settings.keep_looks,
    )


def _check_reporting(job: Job) -> None:
    """Say what is missing before the model is loaded, and where TensorBoard is to write."""
    for name in job.settings.report_to:
        if importlib.util.find_spec(name) is None:
            raise BackendUnavailable(
                f"train.report_to: {name} is not installed", hint=f"pip install {name}, or leave it out"
            )
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(job.out_dir / "tensorboard"))


def _lora_config(settings: TrainSettings) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules="all-linear", bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip


def _arguments(job: Job) -> dict[str, Any]:
    settings, compute = job.settings, job.compute
    return {
        "output_dir": str(job.out_dir / CHECKPOINTS),
        "max_steps": job.plan.steps,
        # One row of the dataset is one micro-batch, laid out by the plan and read in its order.
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": job.plan.micro_batches_per_step // job.processes.count,
        "train_sampling_strategy": "sequential",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "max_length": None,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "optim": compute.optimizer,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "gradient_checkpointing": settings.has_gradient_checkpointing,
        "use_cpu": not compute.is_cuda,
        "ddp_backend": "gloo" if job.processes.count > 1 and not compute.is_cuda else None,
        "bf16": compute.dtype == "bfloat16",
        "fp16": compute.dtype == "float16",
        "dataloader_pin_memory": compute.is_cuda,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would show the last good loss instead
        "save_strategy": "steps",
        "save_steps": settings.save_every_steps,
        "save_total_limit": KEPT,
        "report_to": list(settings.report_to) or "none",
        "disable_tqdm": True,
    }


def _make_collator(job: Job) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return what turns one laid-out row into tensors.

    input_ids, labels: int64 [batch, tokens]; labels are -100 where no loss is. Packed: one row, with position_ids
    that start anew at each example, by which attention is kept within it. Padded: with attention_mask.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(
        pad_token_id=job.tokenizer.pad_token_id, padding_free=bool(job.settings.is_packed)
    )

    def collate_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
        chosen = [
            one
            for row in rows
            for one in row.get("examples") or [job.examples[position] for position in row["positions"]]
        ]
        if isinstance(chosen[0], EncodedPair):
            return collate_pairs(chosen, collate_examples)
        return collate_examples(chosen)

    def collate_examples(examples: list[EncodedExample]) -> dict[str, Any]:
        return dict(collate([{"input_ids": one.input_ids, "labels": one.labels} for one in examples]))

    return collate_row


class _Journal:
    """Writes the log, tells progress, and stops a training whose loss is no longer a number."""

    def __init__(
        self, job: Job, outcome: Outcome, log: AppendFile | None, on_progress: OnProgress, started: float
    ) -> None:
        self._job = job
        self._outcome = outcome
        self._log = log
        self._on_progress = on_progress
        before = outcome.log[-1] if outcome.log else None
        self._started = started - (before.seconds if before else 0.0)
        self._tokens = before.tokens if before else 0

    def write(self, step: int, values: dict[str, Any]) -> None:
        loss, norm = float(values["loss"]), float(values.get("grad_norm", 0.0))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _diverged(self._job, step, loss, norm)
        self._tokens += self._tokens_of(step)
        line = LogLine(
            step=step, loss=loss, grad_norm=norm, learning_rate=float(values["learning_rate"]), tokens=self._tokens,
            seconds=round(time.monotonic() - self._started, 3), memory_gib=round(memory_gib(self._job.compute), 3),
        )  # fmt: skip
        if self._log is None:
            return
        self._log.append(line)
        self._outcome.log.append(line)
        shown = {
            "loss": loss,
            "tokens_per_s": self._tokens / max(line.seconds, 1e-9),
            "memory_gib": line.memory_gib,
        }
        self._on_progress(step, self._job.plan.steps, shown)

    def looked(self, line: ValidationLine) -> None:
        """Tell of a look at the held-out examples."""
        right = "" if line.pass_at_1 is None else f", {line.pass_at_1:.1%} of the held-out questions right"
        if self._job.processes.is_main:
            self._job.tell(f"step {line.step}: held-out loss {line.loss:.4f}{right}")

    def saved(self, step: int) -> None:
        """Declare the checkpoint whole once every process has written its part."""
        if self._job.processes.count > 1:
            import torch

            torch.distributed.barrier()
        if self._job.processes.is_main:
            folder = self._job.out_dir / CHECKPOINTS / f"checkpoint-{step}"
            mark_complete(folder, self._job.fingerprint, step)

    def is_time_to_look(self, step: int) -> bool:
        """True every so many steps, and at the last."""
        every = self._job.settings.validate_every_steps
        return every is not None and (step % every == 0 or step == self._job.plan.steps)

    def _tokens_of(self, step: int) -> int:
        plan = self._job.plan
        start = (step - 1) * plan.micro_batches_per_step
        rows = plan.micro_batches[start : start + plan.micro_batches_per_step]
        return sum(self._job.examples[position].tokens for row in rows for position in row)


def _make_callback(journal: _Journal) -> tuple[Any, Callable[[Looks], None]]:
    """Return what transformers tells its events to, and what gives it the held-out examples."""
    from transformers import TrainerCallback

    class Callback(TrainerCallback):  # type: ignore[misc]
        """Hands transformers' events on."""

        looks: Looks | None = None

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.looks is not None and journal.is_time_to_look(state.global_step):
                journal.looked(self.looks.look(state.global_step))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:  # the last event sums the run up
                journal.write(state.global_step, logs)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            journal.saved(state.global_step)

    callback = Callback()
    return callback, lambda looks: setattr(callback, "looks", looks)


def _diverged(job: Job, step: int, loss: float, norm: float) -> LemaError:
    ids = [job.examples[position].id for position in job.plan.step(step)]
    named = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    return BackendError(
        f"training stopped at step {step}: loss {loss}, gradient norm {norm}; the checkpoint before it is kept in "
        f"{job.out_dir / CHECKPOINTS}. Examples of this step: {named}",
        hint="lower train.learning_rate; look at these examples",
    )


def memory_gib(compute: Compute) -> float:
    """Return the peak of torch's allocations on a card, this process's resident memory now on a CPU."""
    if compute.is_cuda:
        import torch

        return float(torch.cuda.max_memory_allocated()) / 2**30
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**30
