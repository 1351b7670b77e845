"""Is the exported student the one that was trained? Greedy answers of llama.cpp against torch.

llama.cpp runs base GGUF + adapter GGUF; torch runs the adapter on the unquantized base in float32. Where the two
write different texts, the first difference must be a near-tie: llama.cpp took torch's runner-up, and torch's two
best logits were close. The NF4 model as trained is compared too, and without the adapter nothing may agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.training.base import AnswerGreedily, FidelityResult, TrainSettings
from lema_local.training.bases import Base
from lema_local.training.libraries import quiet_libraries
from lema_local.training.models import Compute, choose_compute, load_adapter, load_nf4, load_plain
from lema_local.training.tokens import Encoder

NEAR_TIE_LOGITS = 0.1
"""Two logits closer than this (probabilities within 11 %) count as tied: llama.cpp rounds activations to the type of
the weights, which moves logits of a 16-bit model by some hundredths."""
NEAR_TIE_LOGITS_QUANTIZED = 0.5
"""The same where the base GGUF is quantized: activations are rounded to 8 bits. Measured with a student of 2.6M
parameters, 60 answers each at Q8_0 and Q4_0: six runner-ups were taken, at gaps of up to 0.26."""
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


def compare_students(
    base: Base,
    adapter_dir: Path,
    prompts: Sequence[str],
    settings: TrainSettings,
    *,
    with_adapter: AnswerGreedily,
    without_adapter: AnswerGreedily,
    max_tokens: int,
    near_tie_logits: float = NEAR_TIE_LOGITS,
) -> FidelityResult:
    """Answer each prompt in torch and in llama.cpp and compare.

    Raises:
        InputError: If there is no prompt.
        BackendError: If a model or the adapter does not load.
    """
    if not prompts:
        raise InputError("no prompts to compare the exported student on", hint="give some questions")
    encoder = Encoder(base, settings.prompt_style)
    plain = Compute(choose_compute().device, "float32")
    with quiet_libraries():
        reference, nf4_equal, nf4_kl = _answer_in_torch(
            base, adapter_dir, encoder, prompts, settings, plain, max_tokens
        )
    exported = [whole_characters(text) for text in with_adapter(prompts, max_tokens)]
    bare = [whole_characters(text) for text in without_adapter(prompts, max_tokens)]
    texts = [_text(encoder, answer.ids) for answer in reference]
    differences = [
        {
            "prompt": prompt,
            "torch": ours,
            "gguf": theirs,
            "reason": explain_difference(encoder, answer, theirs),
        }
        for prompt, answer, ours, theirs in zip(prompts, reference, texts, exported, strict=True)
        if ours != theirs
    ]
    return FidelityResult(
        prompts=len(prompts),
        greedy_equal=len(prompts) - len(differences),
        near_ties=sum(difference["reason"] == "near-tie" for difference in differences),
        near_tie_logits=near_tie_logits,
        nf4_greedy_equal=nf4_equal,
        nf4_mean_kl=nf4_kl,
        without_adapter_equal=sum(ours == theirs for ours, theirs in zip(texts, bare, strict=True)),
        differences=tuple(differences),
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


def _answer_in_torch(
    base: Base,
    adapter_dir: Path,
    encoder: Encoder,
    prompts: Sequence[str],
    settings: TrainSettings,
    plain: Compute,
    max_tokens: int,
) -> tuple[list[GreedyAnswer], int | None, float | None]:
    """Return the unquantized model's answers, and for QLoRA how many NF4 answers are equal and the mean KL."""
    stop_ids = base.facts.stop_ids
    model = load_adapter(load_plain(base.folder, plain), adapter_dir)
    reference = answer_greedily(model, encoder, prompts, stop_ids, max_tokens)
    if settings.method != "qlora":
        return reference, None, None
    compared = _first_positions(reference, KL_POSITIONS)
    expected = [position_logits(model, answer) for answer in compared]
    del model
    nf4 = load_adapter(load_nf4(base.folder, plain), adapter_dir)
    answers = answer_greedily(nf4, encoder, prompts, stop_ids, max_tokens)
    equal = sum(ours.ids == theirs.ids for ours, theirs in zip(reference, answers, strict=True))
    return reference, equal, _mean_kl(expected, [position_logits(nf4, answer) for answer in compared])


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


def position_logits(model: Any, answer: GreedyAnswer) -> Any:
    """Return the logits [positions, vocabulary] of an answer, the position after its last token included."""
    import torch

    ids = torch.tensor([answer.prompt_ids + answer.ids], device=next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits[len(answer.prompt_ids) - 1 :].float()


def _mean_kl(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Return KL(expected || found) per position, nats."""
    import torch

    p = torch.cat(list(expected)).log_softmax(-1)
    q = torch.cat(list(found)).log_softmax(-1)
    return float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")) / len(p)
