"""Is the exported student the one that was trained? Logits and greedy answers of llama.cpp against torch.

llama.cpp runs base GGUF + adapter GGUF, torch the adapter on the unquantized base in float32; or both run the whole
model, where all weights were trained. The logits after
every token of prompts and answers are compared. Where the two write different texts, the first difference must be a
near-tie: llama.cpp took torch's runner-up, and torch's two best logits were close. The NF4 model as trained is
compared too, and without the adapter nothing may agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.training.base import AnswerGreedily, Divergence, Exported, FidelityResult, TrainSettings
from lema_local.training.bases import Base
from lema_local.training.divergence import DivergenceMeter
from lema_local.training.libraries import quiet_libraries
from lema_local.training.models import (
    Compute,
    borrowed_memory,
    choose_compute,
    choose_place,
    free_memory,
    load_adapter,
    load_in_float32,
    load_nf4,
)
from lema_local.training.tokens import Encoder

NEAR_TIE_LOGITS = 0.1
"""Two logits closer than this (probabilities within 11 %) count as tied: llama.cpp rounds activations to the type of
the weights, which moves logits of a 16-bit model by some hundredths."""
NEAR_TIE_LOGITS_QUANTIZED = 0.5
"""The same where the base GGUF is quantized: activations are rounded to 8 bits. Measured with a student of 2.6M
parameters, 60 answers each at Q8_0 and Q4_0: six runner-ups were taken, at gaps of up to 0.26."""
TRAINED = "trained"
EXPORTED = {"adapter": "adapter on GGUF", "model": "model as GGUF"}
"""Names of students in `FidelityResult.answers`."""
BATCH = 8
KL_POSITIONS = 512
"""Answer positions over which NF4 is compared: so many rows of logits are kept."""


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """What torch wrote, token by token."""

    prompt_ids: list[int]
    ids: list[int]
    """Without the stop token."""
    runner_ups: list[int]
    """The second best token at each position, the stop's position included."""
    gaps: list[float]
    """Logit of the best minus that of the second best, at the same positions."""


@dataclass(frozen=True, slots=True)
class _InTorch:
    """What torch says."""

    answers: list[GreedyAnswer]
    nf4_equal: int | None
    nf4_kl: float | None
    divergence: Divergence | None
    without_adapter: Divergence | None


def compare_students(
    base: Base,
    adapter_dir: Path,
    prompts: Sequence[str],
    settings: TrainSettings,
    *,
    with_adapter: Exported,
    without_adapter: Exported,
    others: Mapping[str, AnswerGreedily],
    max_tokens: int,
    is_base_quantized: bool = False,
) -> FidelityResult:
    """Answer each prompt in torch and in llama.cpp and compare; see `Trainer.check_fidelity`."""
    if not prompts:
        raise InputError("no prompts to compare the exported student on", hint="give some questions")
    encoder = Encoder(base, settings.prompt_style)
    near_tie_logits = NEAR_TIE_LOGITS_QUANTIZED if is_base_quantized else NEAR_TIE_LOGITS
    with quiet_libraries():
        found = _compute_in_torch(
            base, adapter_dir, encoder, prompts, settings, (with_adapter, without_adapter), max_tokens
        )
    texts = [_text(encoder, answer.ids) for answer in found.answers]
    exported = [whole_characters(text) for text in with_adapter.answer(prompts, max_tokens)]
    bare = [whole_characters(text) for text in without_adapter.answer(prompts, max_tokens)]
    differences = [
        {
            "prompt": prompt,
            "torch": ours,
            "gguf": theirs,
            "reason": explain_difference(encoder, answer, theirs, near_tie_logits),
        }
        for prompt, answer, ours, theirs in zip(prompts, found.answers, texts, exported, strict=True)
        if ours != theirs
    ]
    return FidelityResult(
        prompts=len(prompts),
        greedy_equal=len(prompts) - len(differences),
        near_ties=sum(difference["reason"] == "near-tie" for difference in differences),
        near_tie_logits=near_tie_logits,
        nf4_greedy_equal=found.nf4_equal,
        nf4_mean_kl=found.nf4_kl,
        without_adapter_equal=sum(ours == theirs for ours, theirs in zip(texts, bare, strict=True)),
        differences=tuple(differences),
        divergence=found.divergence,
        without_adapter=found.without_adapter,
        is_base_quantized=is_base_quantized,
        answers={
            TRAINED: texts,
            EXPORTED[settings.outcome]: exported,
            **{name: list(answer(prompts, max_tokens)) for name, answer in others.items()},
        },
    )


def explain_difference(
    encoder: Encoder, answer: GreedyAnswer, text: str, near_tie_logits: float = NEAR_TIE_LOGITS
) -> str:
    """Return `near-tie`, or what else the first difference between torch's answer and `text` is."""
    for position in range(len(answer.gaps)):
        written = answer.ids[: position + 1]
        if position < len(answer.ids) and text.startswith(_text(encoder, written)):
            continue
        other = _text(encoder, [*answer.ids[:position], answer.runner_ups[position]])
        gap = answer.gaps[position]
        # A runner-up that ends the answer adds nothing to the text.
        took_runner_up = text.startswith(other) and (
            len(other) > len(_text(encoder, answer.ids[:position])) or text == other
        )
        if not took_runner_up:
            return f"another token than torch's two best, at token {position}"
        return (
            "near-tie"
            if gap < near_tie_logits
            else f"the runner-up, {gap:.2f} logits below the best, at token {position}"
        )
    return "the same tokens, cut at another length"


def whole_characters(text: str) -> str:
    """Return `text` without U+FFFD: what stands for a torn character differs from one library to the next."""
    return text.replace("\ufffd", "")


def _text(encoder: Encoder, ids: Sequence[int]) -> str:
    return whole_characters(encoder.decode(ids))


def _compute_in_torch(
    base: Base,
    adapter_dir: Path,
    encoder: Encoder,
    prompts: Sequence[str],
    settings: TrainSettings,
    exported: tuple[Exported, Exported],
    max_tokens: int,
) -> _InTorch:
    """Return the unquantized model's answers, how far the exported ones are from it, and for QLoRA the NF4 model."""
    stop_ids = base.facts.stop_ids
    folder = adapter_dir if settings.method == "full" else base.folder
    model = load_in_float32(folder, choose_place(folder, free_memory())).eval()
    if settings.method != "full":
        model = load_adapter(model, adapter_dir)
    answers = answer_greedily(model, encoder, prompts, stop_ids, max_tokens)
    divergence, without = (_measure_divergence(model, answers, one) for one in exported)
    if not settings.is_quantized:
        return _InTorch(answers, None, None, divergence, without)
    compared = _first_positions(answers, KL_POSITIONS)
    expected = [position_logits(model, answer).cpu() for answer in compared]
    del model
    with borrowed_memory():
        nf4 = load_adapter(load_nf4(base.folder, Compute(choose_compute().device, "float32")), adapter_dir)
    nf4_answers = answer_greedily(nf4, encoder, prompts, stop_ids, max_tokens)
    meter = DivergenceMeter(NEAR_TIE_LOGITS)
    for answer, logits in zip(compared, expected, strict=True):
        meter.add(logits, position_logits(nf4, answer).cpu())
    equal = sum(ours.ids == theirs.ids for ours, theirs in zip(answers, nf4_answers, strict=True))
    return _InTorch(answers, equal, meter.result().mean_kl, divergence, without)


def _measure_divergence(model: Any, answers: Sequence[GreedyAnswer], exported: Exported) -> Divergence | None:
    """Compare the logits after every token of prompts and answers; None where the exported student tells none."""
    if exported.logits is None:
        return None
    meter = DivergenceMeter(NEAR_TIE_LOGITS)
    texts = [[*answer.prompt_ids, *answer.ids] for answer in answers]
    for ids, found in zip(texts, exported.logits(texts), strict=True):
        meter.add(text_logits(model, ids).cpu(), found)
    return meter.result()


def _first_positions(answers: Sequence[GreedyAnswer], limit: int) -> list[GreedyAnswer]:
    """Return the first answers, one at least, with no more than `limit` positions together."""
    ends = accumulate(len(answer.ids) + 1 for answer in answers)
    return [
        answer
        for number, (answer, end) in enumerate(zip(answers, ends, strict=True))
        if not number or end <= limit
    ]


def answer_greedily(
    model: Any, encoder: Encoder, prompts: Sequence[str], stop_ids: Sequence[int], max_tokens: int
) -> list[GreedyAnswer]:
    """Return what a torch model writes at temperature 0."""
    answers: list[GreedyAnswer] = []
    for start in range(0, len(prompts), BATCH):
        batch = [encoder.prompt_ids(prompt) for prompt in prompts[start : start + BATCH]]
        answers.extend(_answer_batch(model, encoder, batch, stop_ids, max_tokens))
    return answers


def _answer_batch(
    model: Any, encoder: Encoder, batch: list[list[int]], stop_ids: Sequence[int], max_tokens: int
) -> list[GreedyAnswer]:
    """Decode a batch, padded on the left; on raw logits, since `generate` would apply a model's own penalties."""
    import torch

    width = max(map(len, batch))
    pad_id, device = encoder.tokenizer.pad_token_id, next(model.parameters()).device
    ids = torch.tensor([[pad_id] * (width - len(one)) + one for one in batch], device=device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch], device=device)
    stops = torch.tensor(list(stop_ids), device=device)
    is_done = torch.zeros(len(batch), dtype=torch.bool, device=device)
    tokens, logits, past = [], [], None
    with torch.inference_mode():
        for _ in range(max_tokens):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=past,
                use_cache=True,
            )
            past, best = out.past_key_values, out.logits[:, -1].float().topk(2)
            tokens.append(best.indices)
            logits.append(best.values)
            ids, mask = best.indices[:, :1], torch.cat([mask, mask.new_ones(len(batch), 1)], dim=-1)
            is_done |= torch.isin(ids[:, 0], stops)
            if bool(is_done.all()):
                break
    best_tokens, best_logits = torch.stack(tokens, dim=1).tolist(), torch.stack(logits, dim=1).tolist()
    return [
        _one_answer(prompt, best_tokens[row], best_logits[row], set(stop_ids))
        for row, prompt in enumerate(batch)
    ]


def _one_answer(
    prompt: list[int], best: list[list[int]], logits: list[list[float]], stop_ids: set[int]
) -> GreedyAnswer:
    firsts = [pair[0] for pair in best]
    end = next((position for position, token in enumerate(firsts) if token in stop_ids), len(firsts))
    seen = slice(0, min(end + 1, len(firsts)))
    gaps = [pair[0] - pair[1] for pair in logits[seen]]
    return GreedyAnswer(prompt, firsts[:end], [pair[1] for pair in best[seen]], gaps)


def text_logits(model: Any, ids: Sequence[int]) -> Any:
    """Return the logits after every token of a text: float32 [tokens, vocabulary]."""
    import torch

    tokens = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with torch.inference_mode():
        return model(input_ids=tokens, use_cache=False).logits[0].float()


def position_logits(model: Any, answer: GreedyAnswer) -> Any:
    """Return the logits [positions, vocabulary] of an answer, the position after its last token included."""
    return text_logits(model, [*answer.prompt_ids, *answer.ids])[len(answer.prompt_ids) - 1 :]
