"""Facts about a model's GGUF file, read from its metadata alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_local.errors import InputError

# llama.cpp ends an answer at these too, whatever the metadata says, where the vocabulary has them as one token.
# Source: llama_vocab::impl::load, "special_eog_ids" (ggml-org/llama.cpp, src/llama-vocab.cpp).
END_TOKENS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>",
    "<EOT>", "_<EOT>", "<|end_of_text|>", "<end_of_utterance>",
)  # fmt: skip
CONTROL_TOKEN = 3  # LLAMA_TOKEN_TYPE_CONTROL
UNQUANTIZED = frozenset({"F32", "F16", "BF16"})
"""Types of GGUF tensors that hold plain numbers."""
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What training and export have to know of a base GGUF."""

    path: Path
    architecture: str
    """GGUF's name: llama, qwen2, ..."""
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int | None
    """Width of a head's key; None where the file leaves it to hidden size / heads."""
    vocab_size: int
    parameters: int
    main_type: str
    """The type of most parameters: F32, F16, BF16, Q4_0, ..."""
    tensor_shapes: dict[str, tuple[int, ...]]
    """(out, in) as in torch, by GGUF tensor name."""
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    stop_ids: tuple[int, ...]
    add_bos: bool
    norm: tuple[float, ...]
    """Some weights of the last norm, which no quantization touches: they tell models of one shape apart."""
    rope_scaling: str | None
    """A scaling of the rotary embedding that stands in the file; None where there is none."""

    @property
    def has_tied_head(self) -> bool:
        """True where the output head is the embedding matrix."""
        return "output.weight" not in self.tensor_shapes


def read_gguf_facts(path: Path) -> GgufFacts:
    """Read a model's metadata and tensor shapes; the weights are not touched.

    Raises:
        InputError: If the file is missing, is no GGUF, or is no language model with a tokenizer.
    """
    reader = open_gguf(path)
    values = _Metadata(path, reader.fields)
    architecture = values.need("general.architecture")
    tokens = values.need("tokenizer.ggml.tokens")
    shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors}
    heads = int(values.need(f"{architecture}.attention.head_count"))
    eos_id = int(values.need("tokenizer.ggml.eos_token_id"))
    return GgufFacts(
        path=path,
        architecture=architecture,
        layers=int(values.need(f"{architecture}.block_count")),
        hidden_size=int(values.need(f"{architecture}.embedding_length")),
        heads=heads,
        kv_heads=int(values.get(f"{architecture}.attention.head_count_kv", heads)),
        head_size=values.get(f"{architecture}.attention.key_length"),
        vocab_size=shapes.get("token_embd.weight", (len(tokens),))[0],
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        main_type=_main_type(reader.tensors),
        tensor_shapes=shapes,
        bos_id=values.get("tokenizer.ggml.bos_token_id"),
        eos_id=eos_id,
        pad_id=values.get("tokenizer.ggml.padding_token_id"),
        stop_ids=_stop_ids(values, tokens, eos_id),
        add_bos=_adds_bos(values),
        norm=_norm(reader.tensors),
        rope_scaling=_rope_scaling(values, architecture, shapes),
    )


def open_gguf(path: Path) -> Any:
    """Return gguf's reader of a file; the weights are mapped, not read.

    Raises:
        InputError: If the file is missing, damaged or no GGUF.
    """
    import gguf

    if not path.is_file():
        raise InputError(f"no such file: {path}", hint="give the path of the base's GGUF file")
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise InputError(
            f"{path} is no GGUF file: it starts with {magic!r}", hint="give the base's GGUF file"
        )
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as err:
        raise InputError(f"{path} is a damaged GGUF file: {err}", hint="fetch or convert it again") from err


class _Metadata:
    """Values by key, with a clear error for what a model's file has to have."""

    def __init__(self, path: Path, fields: dict[str, Any]) -> None:
        self._path = path
        self._fields = fields

    def get(self, key: str, otherwise: Any = None) -> Any:
        field = self._fields.get(key)
        return otherwise if field is None else field.contents()

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise InputError(
                f"{self._path} has no {key} in its metadata", hint="give the GGUF of a whole language model"
            )
        return value


def sample_norm(weights: Any) -> tuple[float, ...]:
    """Return 64 weights of a norm, evenly spread (all where there are fewer)."""
    return tuple(round(float(weight), 6) for weight in weights[:: max(1, len(weights) // 64)][:64])


def _norm(tensors: Iterable[Any]) -> tuple[float, ...]:
    last = next((tensor for tensor in tensors if tensor.name == "output_norm.weight"), None)
    is_plain = last is not None and last.tensor_type.name in ("F32", "F16")
    return sample_norm(last.data) if last is not None and is_plain else ()


def _main_type(tensors: Iterable[Any]) -> str:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    return max(sizes, key=lambda name: sizes[name], default="F16")


def _stop_ids(values: _Metadata, tokens: list[str], eos_id: int) -> tuple[int, ...]:
    """Return every token that ends an answer in llama.cpp: by metadata, and by name."""
    found = {eos_id}
    named = (values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom"))
    found |= {int(token) for token in named if token is not None}
    types = values.get("tokenizer.ggml.token_type", [CONTROL_TOKEN] * len(tokens))
    found |= {
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if token in END_TOKENS and kind == CONTROL_TOKEN
    }
    return tuple(sorted(found))


def _adds_bos(values: _Metadata) -> bool:
    """Return llama.cpp's rule: what the file says, else what its kind of tokenizer does.

    Source: llama_vocab::impl::load (ggml-org/llama.cpp, src/llama-vocab.cpp).
    """
    said = values.get("tokenizer.ggml.add_bos_token")
    if said is not None:
        return bool(said)
    if values.get("tokenizer.ggml.model") == "llama":
        return True
    return values.get("tokenizer.ggml.pre") in {
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
    }


def _rope_scaling(values: _Metadata, architecture: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
    found = [name for name in shapes if name.endswith(ROPE_FACTORS)]
    if found:
        return f"the tensor {found[0]}"
    kind = values.get(f"{architecture}.rope.scaling.type")
    return None if kind in (None, "none") else f"{architecture}.rope.scaling.type = {kind}"
