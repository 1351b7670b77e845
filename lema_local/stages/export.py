"""Stage 7: bring what was trained into GGUF, and see that it is the same student there.

Reads   adapter folder     of one arm; the model's where all weights were trained
Writes  adapter.gguf       or model.gguf, through the trainer; the comparison is returned, for manifest and report
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lema_local.errors import BackendError
from lema_local.students.base import Completion, DecodeSettings, Prompt, SampleRequest, Student
from lema_local.training.base import (
    AnswerGreedily,
    Divergence,
    Exported,
    FidelityResult,
    MergeResult,
    Trainer,
)


def check_exported(
    trainer: Trainer,
    adapter_dir: Path,
    prompts: Sequence[str],
    *,
    adapted: Student,
    bare: Student,
    max_tokens: int,
    others: Mapping[str, AnswerGreedily] | None = None,
) -> FidelityResult:
    """Compare logits and greedy answers of the exported student with the trained one's.

    Args:
        trainer: Who trained it.
        adapter_dir: The adapter, or the whole model, as trained.
        prompts: As in the training examples.
        adapted: The student with the exported adapter, or the exported model.
        bare: The student as it was: the control.
        max_tokens: Of each answer.
        others: Further forms of the exported student, by name, whose answers are taken too.
    """
    return trainer.check_fidelity(
        adapter_dir,
        prompts,
        with_adapter=Exported(answer_greedily(adapted), getattr(adapted, "logits", None)),
        without_adapter=Exported(answer_greedily(bare), getattr(bare, "logits", None)),
        others=others or {},
        max_tokens=max_tokens,
    )


def write_merged(
    merge: Callable[[Path], MergeResult], quantize: Callable[[Path, Path], None], out_path: Path
) -> MergeResult:
    """Write one GGUF of base and adapter in the asked type; return what was merged.

    Args:
        merge: Writes the merged model, unquantized, to a path.
        quantize: (from, to) writes it in the asked type; the name appears when all of it is there.
        out_path: The file.
    """
    between = out_path.with_name(out_path.name + ".merged")
    try:
        merged = merge(between)
        quantize(between, out_path)
    finally:
        between.unlink(missing_ok=True)
    return merged


def answer_greedily(student: Student) -> AnswerGreedily:
    """Return a function (prompts, max_tokens) -> the student's answers at temperature 0, in the prompts' order."""

    def answer(prompts: Sequence[str], max_tokens: int) -> list[str]:
        settings = DecodeSettings(temperature=0.0, top_k=0, top_p=1.0, max_tokens=max_tokens)
        requests = [
            SampleRequest(str(position), 0, _in_style(prompt, student), seed=0)
            for position, prompt in enumerate(prompts)
        ]
        texts = {
            int(request.question_id): _text(request, completion)
            for request, completion in student.complete_many(requests, settings, is_exact=True)
        }
        return [texts[position] for position in range(len(prompts))]

    return answer


def _in_style(prompt: str, student: Student) -> Prompt:
    return ({"role": "user", "content": prompt},) if student.prompt_style == "chat" else prompt


def _text(request: SampleRequest, completion: object) -> str:
    if not isinstance(completion, Completion):
        raise BackendError(
            f"the student cannot answer prompt {request.question_id} of the comparison: {completion}",
            hint="give it a longer context",
        )
    return completion.text


def describe_divergence(divergence: Divergence) -> str:
    """Return how far two models are apart, for a person."""
    return (
        f"mean KL {divergence.mean_kl:.2g}, same top token on {divergence.same_top} of {divergence.clear_positions} "
        f"positions outside near-ties ({divergence.positions} in all)"
    )


def describe_fidelity(result: FidelityResult) -> list[str]:
    """Return what the comparison showed, in lines for a person."""
    other = result.prompts - result.greedy_equal - result.near_ties
    lines = [
        f"greedy answers, llama.cpp against torch: {result.greedy_equal} of {result.prompts} equal, "
        f"{result.near_ties} differ at a near-tie (< {result.near_tie_logits} logits), {other} otherwise",
        f"the base alone: {result.without_adapter_equal} of {result.prompts} are equal",
    ]
    if result.divergence is not None:
        bound = " (no bound: the base GGUF is quantized)" if result.is_base_quantized else ""
        lines.append(f"logits, llama.cpp against torch: {describe_divergence(result.divergence)}{bound}")
    if result.without_adapter is not None:
        lines.append(f"the base alone: {describe_divergence(result.without_adapter)}")
    if result.nf4_greedy_equal is not None:
        lines.append(
            f"the NF4 model as trained: {result.nf4_greedy_equal} of {result.prompts} equal, "
            f"KL {result.nf4_mean_kl:.4f} per position"
        )
    lines += [f"differs: {one['prompt'][-60:]!r}: {one['reason']}" for one in result.differences]
    return lines
