"""The shape of a model, from its configuration or a GGUF's header alone: what an estimate of memory needs.

Neither weights nor torch are touched: a plan for a model of 7 billion parameters takes milliseconds on a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.training.bases import fetch_config, is_hub_name, read_json
from lema_local.training.gguf_files import GgufFacts, read_gguf_facts

QKV_BIAS = frozenset({"qwen2"})
TIED = frozenset({"gemma", "gemma2", "gemma3_text"})
"""Families whose head is the embedding matrix unless the configuration says otherwise."""
HEAD_NORMS = frozenset({"qwen3", "gemma3_text"})
"""Families that norm each head's query and key."""
NORMS = {"gemma2": 4, "gemma3_text": 4}
"""Norms per layer; 2 in the others."""
FUSED = frozenset({"phi3"})
"""Families with one matrix for query, key and value, and one for gate and up."""
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3"})


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only model; all layers alike."""

    name: str
    """As the model was named."""
    architecture: str
    layers: int
    hidden_size: int
    intermediate_size: int
    """Width of the feed-forward layer."""
    query_size: int
    """Heads times head size."""
    vocab_size: int
    linears: tuple[tuple[int, int], ...]
    """(in, out) of every linear layer in one block: what is quantized, and what gets an adapter."""
    is_tied: bool
    """True where the output head is the embedding matrix."""
    small_weights: int
    """Norms and biases, all layers together."""

    @property
    def linear_weights(self) -> int:
        """Parameters of the linear layers in all blocks."""
        return self.layers * sum(wide * high for wide, high in self.linears)

    @property
    def embedding_weights(self) -> int:
        """Parameters of the embedding, and of the head where it is another matrix; never quantized."""
        return self.vocab_size * self.hidden_size * (1 if self.is_tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.linear_weights + self.embedding_weights + self.small_weights

    def adapter_weights(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all linear layers: A is [rank, in], B is [out, rank].

        Source: Hu et al. 2021, arXiv 2106.09685, section 4.1.
        """
        return self.layers * rank * sum(wide + high for wide, high in self.linears)


def read_shape(source: str | Path) -> ModelShape:
    """Return the shape of a base named by a GGUF file, a Hugging Face folder or a hub name.

    Raises:
        InputError: If there is no such base, or its architecture is not known here.
        BackendUnavailable: If a hub model's configuration cannot be fetched.
    """
    path = Path(source)
    if path.is_file():
        return shape_of_gguf(read_gguf_facts(path))
    if path.is_dir():
        config = read_json(path / "config.json")
        if config is None:
            raise InputError(
                f"{path} is no model folder: it has no config.json", hint="give a Hugging Face model folder"
            )
        return shape_of_config(config, str(source))
    if is_hub_name(source):
        return shape_of_config(fetch_config(str(source)), str(source))
    raise InputError(
        f"no such base: {source}",
        hint="give a GGUF file, a Hugging Face folder, or a name such as Qwen/Qwen2.5-0.5B",
    )


def shape_of_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """Return the shape that a Hugging Face config.json describes.

    Raises:
        InputError: If the architecture is not known here, or a size is missing.
    """
    config = config.get("text_config") or config
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise InputError(
            f"{name}: no estimate of memory for the architecture {family} (only {', '.join(sorted(FAMILIES))})",
            hint="leave train.memory out and choose train.micro_batch_size yourself",
        )
    sizes = _Sizes(config, name)
    hidden, wide = sizes["hidden_size"], sizes["intermediate_size"]
    layers, heads = sizes["num_hidden_layers"], sizes["num_attention_heads"]
    head_size = int(config.get("head_dim") or hidden // heads)
    query = heads * head_size
    key = int(config.get("num_key_value_heads") or heads) * head_size
    return ModelShape(
        name=name,
        architecture=family,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=wide,
        query_size=query,
        vocab_size=sizes["vocab_size"],
        linears=_linears(family, hidden, wide, query, key),
        is_tied=bool(config.get("tie_word_embeddings", family in TIED)),
        small_weights=layers * _small(config, family, hidden, wide, query, key, head_size) + hidden,
    )


def shape_of_gguf(facts: GgufFacts) -> ModelShape:
    """Return the shape that the tensors of a GGUF have.

    Raises:
        InputError: If the file has no blocks of linear layers.
    """
    block = {
        name.removeprefix("blk.0."): shape
        for name, shape in facts.tensor_shapes.items()
        if name.startswith("blk.0.")
    }
    linears = tuple((shape[1], shape[0]) for shape in block.values() if len(shape) == 2)
    if "ffn_down.weight" not in block or "attn_output.weight" not in block:
        raise InputError(
            f"{facts.path}: no estimate of memory for the architecture {facts.architecture}",
            hint="leave train.memory out and choose train.micro_batch_size yourself",
        )
    embedding = facts.vocab_size * facts.hidden_size * (1 if facts.has_tied_head else 2)
    return ModelShape(
        name=str(facts.path),
        architecture=facts.architecture,
        layers=facts.layers,
        hidden_size=facts.hidden_size,
        intermediate_size=block["ffn_down.weight"][1],
        query_size=block["attn_output.weight"][1],
        vocab_size=facts.vocab_size,
        linears=linears,
        is_tied=facts.has_tied_head,
        small_weights=facts.parameters
        - embedding
        - facts.layers * sum(wide * high for wide, high in linears),
    )


class _Sizes:
    """The sizes in a configuration, with a clear error for one that is missing."""

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._config = config
        self._name = name

    def __getitem__(self, key: str) -> int:
        value = self._config.get(key)
        if not isinstance(value, int) or value < 1:
            raise InputError(
                f"{self._name}: its configuration has no usable {key}: {value!r}",
                hint="fetch the model again",
            )
        return value


def _linears(family: str, hidden: int, wide: int, query: int, key: int) -> tuple[tuple[int, int], ...]:
    if family in FUSED:
        return (hidden, query + 2 * key), (query, hidden), (hidden, 2 * wide), (wide, hidden)
    return (
        (hidden, query), (hidden, key), (hidden, key), (query, hidden),
        (hidden, wide), (hidden, wide), (wide, hidden),
    )  # fmt: skip


def _small(
    config: Mapping[str, Any], family: str, hidden: int, wide: int, query: int, key: int, head_size: int
) -> int:
    """Norms and biases of one layer."""
    count = NORMS.get(family, 2) * hidden
    count += 2 * head_size if family in HEAD_NORMS else 0
    if family in QKV_BIAS:
        count += query + 2 * key
    elif config.get("attention_bias"):
        count += query + 2 * key + hidden
    if config.get("mlp_bias"):
        count += 2 * wide + hidden
    return count
