"""The trainer that works on this machine: fits adapters or all weights, exports them, compares the two."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lema_local.errors import InputError, RunStateError
from lema_local.jsonl import finish
from lema_local.records import AnyExample
from lema_local.runs import fingerprint, hash_file, library_versions, write_text
from lema_local.training.base import (
    LAYOUT_SETTINGS,
    AnswerGreedily,
    BaseFacts,
    Exported,
    ExportResult,
    FidelityResult,
    MergeResult,
    OnProgress,
    PromptReader,
    Tell,
    TrainResult,
    TrainSettings,
    Validation,
    ignore,
)
from lema_local.training.bases import FACTS_NAME, Base, check_matches_gguf, open_base
from lema_local.training.checkpoints import remove_checkpoints
from lema_local.training.export import export_adapter
from lema_local.training.gguf_files import UNQUANTIZED, read_gguf_facts
from lema_local.training.layout import LaidOut, find_budget, lay_out
from lema_local.training.libraries import require_training_libraries
from lema_local.training.merge import merge_adapter
from lema_local.training.models import (
    Compute,
    borrowed_memory,
    check_quantization,
    choose_compute,
    memory_bytes,
)
from lema_local.training.parity import check_same_tokens
from lema_local.training.preference import choose_learning_rate, choose_method, settings_of_pairs
from lema_local.training.processes import this_process
from lema_local.training.qlora import CHECKPOINTS, Job, fit, wait_for_everyone
from lema_local.training.shapes import ModelShape, read_shape
from lema_local.training.table import describe_examples, describe_layout
from lema_local.training.tokens import (
    Encoded,
    EncodedExample,
    EncodedPair,
    Encoder,
    check_labels,
    encode_examples,
)
from lema_local.training.validation import BEST, fill_rows
from lema_local.training.whole import export_whole_model, is_whole_model

RESULT_NAME = "lema_training.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
NOT_IN_RESULT = {"save_every_steps", "report_to", *LAYOUT_SETTINGS}


class TrainingRecord(BaseModel):
    """`lema_training.json` beside the adapter: what made it and what came of it."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    settings: TrainSettings
    result: TrainResult


class LocalTrainer:
    """Implements `Trainer`.

    Args:
        base: GGUF file, Hugging Face folder or hub name of the model to fit adapters to.
        base_gguf: The GGUF that llama.cpp runs; None: `base` is that file.

    Raises:
        BackendUnavailable: If torch or another library of training is not installed.
    """

    def __init__(self, base: str | Path, base_gguf: Path | None = None) -> None:
        require_training_libraries()
        self._source = base
        self._base_gguf = base_gguf

    @cached_property
    def base(self) -> Base:
        """The base as a folder; converted or fetched on first use, and checked against the GGUF."""
        opened = open_base(self._source)
        if self._base_gguf is not None:
            check_matches_gguf(opened.facts, read_gguf_facts(self._base_gguf))
        return opened

    @property
    def base_facts(self) -> BaseFacts:
        """Which model it is, by its weights."""
        return self.base.facts

    @borrowed_memory()
    def train(
        self,
        examples: Sequence[AnyExample],
        settings: TrainSettings,
        out_dir: Path,
        on_progress: OnProgress,
        reader: PromptReader | None = None,
        *,
        validation: Validation | None = None,
        tell: Tell = ignore,
        start_from: Path | None = None,
    ) -> TrainResult:
        """Fit an adapter; see `Trainer.train`."""
        if start_from is not None:
            check_same_base(start_from, self.base.facts)
        settings = choose_method(_own_settings(settings), examples)
        encoder = Encoder(self.base, settings.prompt_style)
        if reader is not None:
            check_same_tokens(encoder, reader, (example.prompt for example in examples))
        encoded, left_out = encode_examples(encoder, examples, settings.max_length)
        check_labels((row for example in encoded for row in example.rows), self.base.facts.stop_ids)
        held_out = _encode_held_out(encoder, validation, settings, tell, is_paired=_is_paired(encoded))
        key = _fingerprint(self.base, settings, encoded, held_out, start_from)
        finished = _finished(out_dir / settings.outcome, key)
        if finished is not None:
            return finished
        compute = choose_compute()
        if settings.is_quantized:
            check_quantization(compute)
        laid_out = self._lay_out(encoded, settings, compute)
        for line in (*describe_examples(encoded, left_out, settings.max_length), describe_layout(laid_out)):
            tell(line)
        rows = fill_rows(
            [len(one.input_ids) for one in held_out],
            laid_out.tokens_at_once,
            is_packed=bool(laid_out.settings.is_packed),
        )
        job = Job(
            self.base.folder, encoded, laid_out.plan, laid_out.settings, compute, encoder.tokenizer, key, out_dir,
            held_out=[[held_out[position] for position in row] for row in rows],
            answer=validation.answer if validation else None,
            processes=this_process(),
            tell=tell,
            start_from=start_from,
        )  # fmt: skip
        return self._fit(job, laid_out, left_out, settings, on_progress)

    def _fit(
        self,
        job: Job,
        laid_out: LaidOut,
        left_out: list[str],
        settings: TrainSettings,
        on_progress: OnProgress,
    ) -> TrainResult:
        encoded, plan, layout, compute = job.examples, job.plan, job.settings, job.compute
        target = job.out_dir / settings.outcome
        partial = target.with_suffix(".partial")
        if job.processes.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        outcome = fit(job, on_progress, partial)
        if not job.processes.is_main:
            wait_for_everyone()
            record = read_training_record(target)
            assert record is not None  # the main process has written it
            return record.result
        last = outcome.log[-10:]
        result = TrainResult(
            adapter_dir=target,
            optimizer_steps=plan.steps,
            examples=len(encoded),
            tokens=sum(example.tokens for example in encoded),
            trained_tokens=sum(example.trained_tokens for example in encoded),
            trained_tokens_by_kind=_by_kind(encoded),
            left_out_ids=tuple(left_out),
            final_loss=sum(line.loss for line in last) / len(last),
            seconds=outcome.log[-1].seconds,
            peak_memory_gib=max(line.memory_gib for line in outcome.log),
            details={
                "base": self.base.facts.model_dump(mode="json"),
                **asdict(compute),
                **{name: getattr(layout, name) for name in ("learning_rate", *LAYOUT_SETTINGS)},
                "tokens_at_once": laid_out.tokens_at_once,
                "memory_estimate_gib": _in_gib(laid_out),
                "optimizer": compute.optimizer,
                "micro_batches_per_step": plan.micro_batches_per_step,
                "processes": job.processes.count,
                "resumed_at_step": outcome.resumed_at,
                "best": outcome.best.model_dump() if outcome.best else None,
                "library_warnings": outcome.warnings,
                "versions": library_versions(),
            },
        )
        self._finish(partial, result, settings, job.fingerprint)
        for name in (CHECKPOINTS, BEST):
            remove_checkpoints(job.out_dir / name)
        wait_for_everyone()
        return result

    def _lay_out(self, encoded: Sequence[Encoded], settings: TrainSettings, compute: Compute) -> LaidOut:
        total, free = memory_bytes(compute)
        budget = find_budget(settings, compute, total=total, free=free)
        lengths = [example.width for example in encoded]
        shape, is_paired = self._shape(settings), _is_paired(encoded)
        if is_paired:
            rate = choose_learning_rate(settings, shape)
            settings = settings.model_copy(update={"learning_rate": rate})
        count = this_process().count
        return lay_out(settings, compute, shape, lengths, budget, processes=count, is_even=is_paired)

    def _shape(self, settings: TrainSettings) -> ModelShape | None:
        try:
            return read_shape(self.base.folder)
        except InputError:
            if settings.memory != "auto":
                raise
            return None  # an architecture that cannot be estimated still trains

    def export(self, adapter_dir: Path, out_path: Path) -> ExportResult:
        """Write what was trained as GGUF; see `Trainer.export`."""
        if not is_whole_model(adapter_dir):
            return export_adapter(adapter_dir, self._gguf(), out_path)
        written = export_whole_model(adapter_dir, self._gguf(), out_path)
        return ExportResult(out_path, written.merged, written.scale, written.bytes, hash_file(out_path))

    def merge(self, adapter_dir: Path, out_path: Path) -> MergeResult:
        """Write base and adapter as one GGUF; see `Trainer.merge`."""
        write = export_whole_model if is_whole_model(adapter_dir) else merge_adapter
        return write(adapter_dir, self._gguf(), out_path)

    @borrowed_memory()
    def check_fidelity(
        self,
        adapter_dir: Path,
        prompts: Sequence[str],
        *,
        with_adapter: Exported,
        without_adapter: Exported,
        others: Mapping[str, AnswerGreedily],
        max_tokens: int,
    ) -> FidelityResult:
        """Compare the exported student with the trained one; see `Trainer.check_fidelity`."""
        from lema_local.training.fidelity import compare_students

        record = read_training_record(adapter_dir)
        return compare_students(
            self.base, adapter_dir, prompts, record.settings if record else TrainSettings(),
            with_adapter=with_adapter, without_adapter=without_adapter, others=others, max_tokens=max_tokens,
            is_base_quantized=not is_whole_model(adapter_dir)
            and read_gguf_facts(self._gguf()).main_type not in UNQUANTIZED,
        )  # fmt: skip

    def _gguf(self) -> Path:
        if self._base_gguf is not None:
            return self._base_gguf
        if self.base.facts.kind != "gguf":
            raise InputError(
                f"the base {self._source} is no GGUF, so there is nothing to put the exported adapter on",
                hint="give the GGUF of the same model",
            )
        return Path(self._source)

    def _finish(self, partial: Path, result: TrainResult, settings: TrainSettings, key: str) -> None:
        """Put beside the weights what made them, then give the folder its name."""
        (partial / "README.md").unlink(missing_ok=True)  # peft's form, not filled in
        write_text(partial / FACTS_NAME, self.base.facts.model_dump_json(indent=2) + "\n")
        record = TrainingRecord(fingerprint=key, settings=settings, result=result)
        write_text(partial / RESULT_NAME, record.model_dump_json(indent=2) + "\n")
        finish(partial, result.adapter_dir)


def check_same_base(adapter_dir: Path, facts: BaseFacts) -> None:
    """See that an adapter was fitted to this very base.

    Raises:
        InputError: If it was fitted to another one, or does not say.
    """
    try:
        found = BaseFacts.model_validate_json((adapter_dir / FACTS_NAME).read_bytes())
    except (OSError, ValidationError) as err:
        raise InputError(
            f"{adapter_dir} does not say which base it was fitted to", hint="train it again with lema train"
        ) from err
    if found.sha256 != facts.sha256:
        raise InputError(
            f"the base has changed: {adapter_dir} was fitted to {found.source} (sha256 {found.sha256[:12]}), and the"
            f" base is now {facts.source} ({facts.sha256[:12]})",
            hint="set the base back, or begin a new run with it",
        )


def read_training_record(adapter_dir: Path) -> TrainingRecord | None:
    """Return what made an adapter; None where it was not made by this project.

    Raises:
        InputError: If the record is damaged.
    """
    path = adapter_dir / RESULT_NAME
    if not path.is_file():
        return None
    try:
        record = TrainingRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as err:
        raise InputError(f"{path} is damaged: {err.error_count()} problem(s)", hint="train again") from err
    return record.model_copy(update={"result": replace(record.result, adapter_dir=adapter_dir)})


def _finished(adapter_dir: Path, key: str) -> TrainResult | None:
    """Return the result of the same training where it has finished already.

    Raises:
        RunStateError: If the folder holds another adapter.
    """
    if not adapter_dir.exists():
        return None
    record = read_training_record(adapter_dir)
    if record is None or record.fingerprint != key:
        raise RunStateError(
            f"{adapter_dir} holds the outcome of another training (of other examples, settings or another base)",
            hint="give another folder, or remove this one",
        )
    return record.result


def _own_settings(settings: TrainSettings) -> TrainSettings:
    """Drop what a recipe's block has beyond the settings of a training."""
    return TrainSettings.model_validate(settings.model_dump(include=set(TrainSettings.model_fields)))


def _is_paired(encoded: Sequence[Encoded]) -> bool:
    return isinstance(encoded[0], EncodedPair)


def _encode_held_out(
    encoder: Encoder, validation: Validation | None, settings: TrainSettings, tell: Tell, *, is_paired: bool
) -> list[EncodedExample]:
    if validation is None or not validation.examples or settings.validate_every_steps is None:
        return []
    if is_paired and settings.validate_answers_every != 1:
        tell(
            "The loss of held-out examples says little of what is learnt from pairs: the last adapter is the one kept"
            " (train.validate_answers_every: 1 chooses by answers)"
        )
        return []
    encoded = encode_examples(encoder, validation.examples, settings.max_length)[0]
    return [one for one in encoded if isinstance(one, EncodedExample)]


def _fingerprint(
    base: Base,
    settings: TrainSettings,
    encoded: Sequence[Encoded],
    held_out: Sequence[EncodedExample],
    start_from: Path | None,
) -> str:
    """Return a hash of what decides the adapter, down to the order of the batches."""
    unused = NOT_IN_RESULT | settings_of_pairs(_is_paired(encoded))
    return fingerprint(
        {
            "base": base.facts.sha256,
            "settings": settings.model_dump(mode="json", exclude=unused),
            "examples": [one.plain for one in encoded],
            "held_out": [one.plain for one in held_out],
            **({"start_from": hash_file(start_from / ADAPTER_WEIGHTS)} if start_from else {}),
        }
    )


def _in_gib(laid_out: LaidOut) -> dict[str, float] | None:
    """Return the estimate for the manifest, beside which the measured peak stands."""
    if laid_out.estimate is None:
        return None
    parts = {**laid_out.estimate.parts(), "total": laid_out.estimate.total}
    return {name: round(size / 2**30, 3) for name, size in parts.items()}


def _by_kind(encoded: Sequence[Encoded]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for example in encoded:
        counts[example.kind] = counts.get(example.kind, 0) + example.trained_tokens
    return counts
