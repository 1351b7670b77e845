"""A matched pair like those of `tiny_hf`, with a sentencepiece vocabulary, as Llama 2, Mistral and Gemma have it.

pair = write_spm_pair(tmp_path, "llama")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tiny_gguf import CHAT_TEMPLATE
from tiny_hf import Pair, make_examples, make_model, write_gguf

from lema_local.training.libraries import quiet_libraries

PIECES = 420
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # llama.cpp's types of tokens


def write_spm_pair(parent: Path, kind: Literal["llama", "gemma"]) -> Pair:
    """Write folder and GGUF; `gemma` puts no space before a text, `llama` does."""
    import sentencepiece

    folder, gguf_path = parent / f"{kind}-spm", parent / f"{kind}-spm.gguf"
    folder.mkdir()
    text = (
        "\n".join(f"{one.prompt} {one.completion}" for one in make_examples(60))
        + "\nthe answer is apples, and more"
    )
    (parent / "corpus.txt").write_text(text, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(parent / "corpus.txt"), model_prefix=str(parent / "spm"), vocab_size=PIECES, model_type="bpe",
        byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=kind == "llama", allow_whitespace_only_pieces=True,
        split_digits=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(parent / "spm.model"))
    _save_tokenizer(pieces, folder, kind)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = make_model("llama", vocab_size=pieces.get_piece_size(), **ids).half()
    with quiet_libraries():
        model.save_pretrained(folder)
    write_gguf(
        model, "llama", gguf_path, chat_template=CHAT_TEMPLATE,
        add_tokenizer=lambda writer: _add_spm(writer, pieces, has_prefix=kind == "llama"),
    )  # fmt: skip
    return Pair(folder, gguf_path)


def _save_tokenizer(pieces: Any, folder: Path, kind: str) -> None:
    import transformers

    ids = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    splits = [
        (-pieces.get_score(number), piece[:at], piece[at:])
        for piece, number in ids.items()
        if not (pieces.is_byte(number) or pieces.is_control(number) or pieces.is_unknown(number))
        for at in range(1, len(piece))
        if piece[:at] in ids and piece[at:] in ids
    ]
    merges = [(left, right) for _, left, right in sorted(splits, key=lambda split: split[0])]
    kinds = {"llama": transformers.LlamaTokenizer, "gemma": transformers.GemmaTokenizer}
    tokenizer = kinds[kind](
        vocab=ids, merges=merges, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>",
        mask_token="<unk>", add_bos_token=True,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def _add_spm(writer: Any, pieces: Any, *, has_prefix: bool) -> None:
    count = pieces.get_piece_size()
    kinds = [
        BYTE
        if pieces.is_byte(i)
        else CONTROL
        if pieces.is_control(i)
        else UNKNOWN
        if pieces.is_unknown(i)
        else NORMAL
        for i in range(count)
    ]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.id_to_piece(i).encode("utf-8") for i in range(count)])
    writer.add_token_scores([pieces.get_score(i) for i in range(count)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(has_prefix)
