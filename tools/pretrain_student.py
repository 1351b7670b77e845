"""Pre-train the quickstart's student from scratch and write it as one f16 GGUF file.

    python tools/pretrain_student.py --out lema_local/quickstart/student.gguf --seed 0

Writes the GGUF, with its tokenizer inside, and prints the validation scores of what was written. One pass
over documents of our own making, nothing downloaded: solved word problems of the families that are not held
back, plain arithmetic, copying of solutions, and plain sentences that train the sub-words of ordinary English
(fine-tuning with LoRA leaves the embeddings as they are). No document shows a wrong solution or a correction.
"""

import argparse
import json
import math
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lema_local.quickstart.problems import FAMILIES, HELD_BACK, MAX_VALUE, generate_questions

NAME = "lema-quickstart-student"
CONTEXT_LENGTH = 1024
END, PAD = "<|endoftext|>", "<|pad|>"

PROMPT = "Please solve the following math problem.\nQuestion: {question}\nAnswer: Let's think step by step.\n"
COPY_PROMPT = (
    "Copy the solution from Step {start} on.\nQuestion: {question}\nSolution: {{\n{solution}\n}}\nCopy:"
)
COPY_COMPLETION = " {{\n...\n{rest}\n}}"

PROMPT_WEIGHT = 0.1
"""Loss weight of text that is given, not asked for: names and numbers that nobody can foresee."""

SHARES = {"problem": 0.60, "arithmetic": 0.28, "copy": 0.06, "plain": 0.06}
"""Share of each kind of document in the training tokens."""


@dataclass(frozen=True)
class Segment:
    """A piece of a document and the weight of its tokens in the loss."""

    text: str
    weight: float = 1.0


Document = tuple[Segment, ...]


# --- documents ----------------------------------------------------------------------------------------------


def number_steps(question: dict[str, Any]) -> list[str]:
    """Return the numbered lines of the gold solution, the final answer last."""
    lines = [*question["gold_rationale"].splitlines(), f"The answer is {question['gold_answer']}."]
    return [f"Step {number}: {line}" for number, line in enumerate(lines, 1)]


def make_problem_document(question: dict[str, Any]) -> Document:
    """Return a question with its gold solution, in the form the student is asked in."""
    prompt = PROMPT.format(question=question["question"])
    return Segment(prompt, PROMPT_WEIGHT), Segment("\n".join(number_steps(question)))


def make_copy_document(question: dict[str, Any], rng: random.Random) -> Document:
    """Return a document that copies a right solution from some step on."""
    steps = number_steps(question)
    start = rng.randint(1, len(steps))
    prompt = COPY_PROMPT.format(start=start, question=question["question"], solution="\n".join(steps))
    return (
        Segment(prompt, PROMPT_WEIGHT),
        Segment(COPY_COMPLETION.format(rest="\n".join(steps[start - 1 :]))),
    )


def make_arithmetic_document(rng: random.Random, lines: int = 12) -> Document:
    """Return lines like ``12+9=21``, in the range of the problems."""
    segments = []
    for _ in range(lines):
        left, operator, right, value = draw_computation(rng)
        segments += [Segment(f"{left}{operator}{right}=", PROMPT_WEIGHT), Segment(f"{value}\n")]
    return tuple(segments)


def draw_computation(rng: random.Random) -> tuple[int, str, int, int]:
    """Return left, operator, right and value of a computation in the problems' range."""
    while True:
        match rng.choices("+-*/", weights=(35, 35, 18, 12))[0]:
            case "+":
                left, right = rng.randint(1, MAX_VALUE), rng.randint(1, 60)
                operation = left, "+", right, left + right
            case "-":
                left, right = rng.randint(2, MAX_VALUE), rng.randint(1, MAX_VALUE)
                operation = left, "-", right, left - right
            case "*":
                left, right = rng.randint(1, 40), rng.randint(2, 12)
                operation = left, "*", right, left * right
            case _:
                right, value = rng.randint(2, 15), rng.randint(1, 40)
                operation = right * value, "/", right, value
        if 1 <= operation[3] <= MAX_VALUE and operation[0] <= MAX_VALUE:
            return operation


_WORDS = {
    "name": (
        "Mia Tom Ana Ben Eva Max Lily Sam Nora Leo Ruth Paul Ella Finn Zoe Omar Iris Jack Kate Noah Rosa "
        "Carl Amy Ivan"
    ),
    "place": "school home work lake market park pool farm city house garden street river shop road town table box",
    "noun": (
        "step answer solution problem question number value result sum difference product part total amount "
        "line word explanation mistake error calculation equation text page book letter pen cup cap lamp "
        "toy map bag kite fan ring hat apple pear plum nut cookie grape stamp coin card marble stone shell "
        "bead ball sticker button flower egg lemon fig box parcel jar basket day week hour time mile way "
        "trip child friend teacher student dollar price cost share half rest order idea reason rule "
        "sentence name thing"
    ),
    "adjective": (
        "right wrong correct incorrect missing first second third last next same other new old original "
        "whole good bad small large long short red green blue early late equal simple hard final left "
        "needed given true false many few"
    ),
    "verb": (
        "adds subtracts multiplies divides uses needs gives gets takes has keeps finds makes shows says "
        "counts computes asks starts ends follows copies corrects explains identifies writes reads buys "
        "sells loses doubles shares eats packs walks rides drives pays leaves wants misses skips repeats "
        "forgets holds becomes does"
    ),
    "link": "because so but and while when after before if since although instead therefore then",
    "filler": (
        "should would could must can will did not never also only again already here there now it this that "
        "these they was were be been is are of in on at to from for with without by into out over under "
        "than as each every all both together away back up down more less fewer too much enough how what "
        "which who where why we you your its one two three four five six seven eight nine ten"
    ),
}  # fmt: skip
_PATTERNS = (
    "The {adjective} {noun} {verb} the {noun} of the {noun}.",
    "{name} {verb} the {noun} {link} the {noun} {verb} it.",
    "The {noun} is not {adjective}, {link} the {noun} was {adjective}.",
    "{name} walks from home to the {place} and back there on {filler} day.",
    "The way from the {place} to the {place} is {adjective}, many miles there and many miles back.",
    "For every {noun} there is a {noun}. Each time {name} {verb} one.",
    "Identify the {adjective} {noun}, explain why it is {adjective}, and copy the {noun}.",
    "Explanation: the {noun} {verb} {filler} {noun}, {link} it is {adjective}.",
    "The {adjective} {noun} is incorrect, the {adjective} {noun} is correct.",
    "Original {noun}: {{ {noun} {filler} {noun} }}",
    "This {noun} should {filler} the {noun} instead of the {noun}.",
    "{filler} {filler} {noun} {filler} {adjective} {filler} {verb} {filler} {noun} {filler}.",
    "In the {noun}, {name} {verb} {filler} {adjective} {noun}; what is {adjective} {filler} {noun}?",
    "Correct {noun}: it {verb} the {noun} starting from the {adjective} one. Incorrect {noun}: it {verb} none.",
    "The {noun} is {number}, not {number}.",
    "There were {number} {noun}s in the {place}, and {name} has {number} {noun}s.",
    "On Sunday {name} drives miles to the {place} in all, for work, for the city, for the pool.",
)


def make_plain_document(rng: random.Random, sentences: int = 8) -> Document:
    """Return sentences without a problem in them: they train the pieces of ordinary words."""
    slots = {slot: words.split() for slot, words in _WORDS.items()}

    def fill(match: re.Match[str]) -> str:
        slot = match.group(1)
        return str(rng.randint(1, MAX_VALUE)) if slot == "number" else rng.choice(slots[slot])

    filled = (re.sub(r"\{(\w+)\}", fill, rng.choice(_PATTERNS)) for _ in range(sentences))
    return (Segment("\n".join(s[0].upper() + s[1:] for s in filled).replace("{{", "{").replace("}}", "}")),)


def make_documents(seed: int) -> dict[str, Iterator[Document]]:
    """Return an endless stream of documents of each kind; the held-back families are in none of them."""
    mix = {family: 1.0 for family in FAMILIES if family not in HELD_BACK}
    endless = 10**9
    rngs = {kind: random.Random(f"{seed}/{kind}") for kind in SHARES}
    return {
        "problem": map(make_problem_document, generate_questions("pretrain", endless, seed, mix)),
        "arithmetic": (make_arithmetic_document(rngs["arithmetic"]) for _ in range(endless)),
        "copy": (
            make_copy_document(question, rngs["copy"])
            for question in generate_questions("pretrain", endless, seed + 1, mix)
        ),
        "plain": (make_plain_document(rngs["plain"]) for _ in range(endless)),
    }


# --- tokenizer ----------------------------------------------------------------------------------------------


def train_tokenizer(documents: Iterable[Document], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE whose ids every GPT-2-like pre-tokenizer agrees on.

    llama.cpp knows only pre-tokenizers by name and gets ``qwen2`` here. No merge crosses the border of a word
    (with the space before it), a digit, a mark or a space, so that coarser splitting cannot change the ids.
    """
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?\p{L}+|\p{N}|[^\s\p{L}\p{N}]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(END, special=True), AddedToken(PAD, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("".join(s.text for s in document) for document in documents), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[float]]:
    """Return the token ids of a document, the end token last, and each token's weight in the loss."""
    ids: list[int] = []
    weights: list[float] = []
    for segment in document:
        segment_ids = tokenizer.encode(segment.text).ids
        ids += segment_ids
        weights += [segment.weight] * len(segment_ids)
    return [*ids, tokenizer.token_to_id(END)], [*weights, 1.0]


# --- batches ------------------------------------------------------------------------------------------------

Batch = tuple[Tensor, Tensor]
LENGTHS = (112, 144, 192, 336)
"""Padded lengths: a few only, since each is compiled once."""


def make_batches(tokenizer: Tokenizer, seed: int, tokens: int, batch_tokens: int) -> list[Batch]:
    """Return shuffled batches of documents of similar length, ``tokens`` in all before padding.

    Each batch holds token ids and loss weights, [rows, length]; padding has weight 0.
    """
    rows: dict[int, list[tuple[list[int], list[float]]]] = defaultdict(list)
    for kind, stream in make_documents(seed).items():
        budget = tokens * SHARES[kind]
        while budget > 0:
            ids, weights = encode(tokenizer, next(stream))
            budget -= len(ids)
            if fitting := [length for length in LENGTHS if length >= len(ids)]:
                rows[fitting[0]].append((ids, weights))
    rng = random.Random(seed)
    batches = []
    for length, members in sorted(rows.items()):
        rng.shuffle(members)
        size = batch_tokens // length
        batches += [pad(members[at : at + size], length) for at in range(0, len(members) - size + 1, size)]
    rng.shuffle(batches)
    return batches


def pad(members: Sequence[tuple[list[int], list[float]]], length: int) -> Batch:
    """Return documents as one batch, padded on the right with ids and weights of 0."""
    ids = torch.zeros(len(members), length, dtype=torch.int32)
    weights = torch.zeros(len(members), length)
    for row, (member_ids, member_weights) in enumerate(members):
        ids[row, : len(member_ids)] = torch.tensor(member_ids)
        weights[row, : len(member_ids)] = torch.tensor(member_weights)
    return ids, weights


# --- training -----------------------------------------------------------------------------------------------


def make_model(vocab_size: int, seed: int) -> LlamaForCausalLM:
    """Return an untrained Llama; every linear dimension is a multiple of 64, NF4's block size."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, batches: Sequence[Batch], learning_rate: float) -> None:
    """Train in place, one pass: Muon for the matrices, Adam for embeddings and norms, bf16 products."""
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    outer = [p for p in model.parameters() if p.ndim != 2 or p is model.model.embed_tokens.weight]
    optimizers = [
        torch.optim.Muon(inner, lr=learning_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(outer, lr=learning_rate, betas=(0.9, 0.98)),
    ]
    torch._dynamo.config.recompile_limit = 2 * len(LENGTHS)
    forward = torch.compile(model, dynamic=False)
    started, seen, running = time.monotonic(), 0, 0.0
    for number, (ids, weights) in enumerate(batches):
        scale = schedule(number / len(batches))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * scale
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(input_ids=ids).logits
        loss = weighted_loss(logits, ids.long(), weights)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        running = loss.item() if number == 0 else 0.98 * running + 0.02 * loss.item()
        if number % 100 == 0 or number == len(batches) - 1:
            seconds = time.monotonic() - started
            print(
                f"batch {number + 1}/{len(batches)}  loss {running:.4f}  {seen / seconds:,.0f} tok/s  {seconds:.0f} s",
                flush=True,
            )


def schedule(progress: float) -> float:
    """Return the share of the full learning rate: a short rise, then a cosine down to nothing."""
    return min(1.0, progress / 0.02 + 0.01) * 0.5 * (1 + math.cos(math.pi * progress))


def weighted_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean cross entropy of each next token."""
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    target_weights = weights[:, 1:].flatten()
    return (losses * target_weights).sum() / target_weights.sum()


# --- GGUF ---------------------------------------------------------------------------------------------------


def write_gguf(model: LlamaForCausalLM, tokenizer: Tokenizer, path: Path) -> None:
    """Write weights (f16; norms f32) and tokenizer in llama.cpp's Llama layout."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(NAME)
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied to the embeddings
            continue
        if name.endswith("q_proj.weight"):
            weight = _permute(weight, config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            weight = _permute(weight, config.num_key_value_heads)
        array = weight.numpy().astype(np.float16 if weight.ndim == 2 else np.float32)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {END, PAD}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(vocabulary[END])
    writer.add_eos_token_id(vocabulary[END])
    writer.add_pad_token_id(vocabulary[PAD])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _permute(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a q or k projection: llama.cpp turns neighbouring pairs, Hugging Face halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


# --- scores -------------------------------------------------------------------------------------------------


@torch.inference_mode()
def score(path: Path, count: int, batch_size: int = 125) -> dict[str, tuple[int, int]]:
    """Answer validation problems greedily with the file as written; return (right, asked) by family."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    questions = list(generate_questions("validation", count))
    scores = dict.fromkeys(FAMILIES, (0, 0))
    for start in range(0, count, batch_size):
        group = questions[start : start + batch_size]
        inputs = tokenizer(
            [PROMPT.format(question=q["question"]) for q in group], return_tensors="pt", padding=True
        )
        inputs.pop("token_type_ids", None)
        outputs = model.generate(**inputs, max_new_tokens=160, do_sample=False, use_cache=True)
        texts = tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for question, text in zip(group, texts, strict=True):
            right, asked = scores[question["tags"]["family"]]
            is_correct = text.endswith(f"The answer is {question['gold_answer']}.")
            scores[question["tags"]["family"]] = right + is_correct, asked + 1
    return scores


def print_scores(scores: dict[str, tuple[int, int]]) -> None:
    """Print what was right, by family and in all."""
    for family, (right, asked) in scores.items():
        mark = " (held back)" if family in HELD_BACK else ""
        print(f"{family:10} {right:4} of {asked:4}  {right / asked:6.1%}{mark}")
    right, asked = (sum(column) for column in zip(*scores.values(), strict=True))
    print(f"{'all':10} {right:4} of {asked:4}  {right / asked:6.1%}")


def main() -> None:
    """Pre-train, write the GGUF, score what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=10_000_000, help="training tokens in all")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens a batch, padding included")
    parser.add_argument("--learning-rate", type=float, default=6e-3)
    parser.add_argument("--vocab-size", type=int, default=768)
    parser.add_argument("--score", type=int, default=1000, help="validation problems to answer at the end")
    arguments = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(arguments.seed)
    sample = [
        next(stream)
        for kind, stream in make_documents(arguments.seed).items()
        for _ in range(round(20_000 * SHARES[kind]))
    ]
    tokenizer = train_tokenizer(sample, arguments.vocab_size)
    batches = make_batches(tokenizer, arguments.seed, arguments.tokens, arguments.batch_tokens)
    model = make_model(tokenizer.get_vocab_size(), arguments.seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{parameters:,} parameters, {len(batches):,} batches, ready after {time.monotonic() - started:.0f} s",
        flush=True,
    )
    train(model, batches, arguments.learning_rate)
    write_gguf(model, tokenizer, arguments.out)
    print(
        f"{arguments.out}: {arguments.out.stat().st_size:,} bytes after {time.monotonic() - started:.0f} s",
        flush=True,
    )
    print_scores(score(arguments.out, arguments.score))


if __name__ == "__main__":
    main()
