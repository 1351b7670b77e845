"""A model whose weights were all trained, as GGUF: the base's file with the trained weights in their place.

Reads   the base's GGUF, the folder that `method: full` wrote
Writes  one GGUF: metadata (tokenizer and chat template among it) byte for byte as in the base, matrices in 16 bits (32
        where the base's are), tensor by tensor

Every family in `export.SUPPORTED` goes this way: gguf's own map has the names (fused projections too), Llama's q and k
rows change their order, Gemma's norms are stored as 1 + weight. Source: convert_hf_to_gguf.py (ggml-org/llama.cpp),
Gemma2Model.modify_tensors and LlamaModel.permute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.jsonl import finish, told_disk_errors
from lema_local.training.base import MergeResult
from lema_local.training.export import (
    SUPPORTED,
    check_not_base,
    permute_rows,
    rotated_heads,
    text_module,
)
from lema_local.training.gguf_files import ROPE_FACTORS, GgufFacts, open_gguf, read_gguf_facts
from lema_local.training.libraries import require_training_libraries
from lema_local.training.merge import PlannedTensor, check_room, check_whole, checked, pad, write_head

ONE_MORE = frozenset({"gemma", "gemma2", "gemma3"})
"""Architectures whose norms multiply by 1 + weight in Hugging Face, by the weight in the file in llama.cpp."""


def is_whole_model(folder: Path) -> bool:
    """True for the folder of a model, rather than of an adapter."""
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists()


def find_trained(folder: Path) -> Path:
    """Return where the weights lie: the folder itself, or adapter/ or model/ in it, as `lema train --out` wrote it."""
    if (folder / "adapter_config.json").exists() or is_whole_model(folder):
        return folder
    return next((inner for inner in (folder / "adapter", folder / "model") if inner.is_dir()), folder)


@dataclass(frozen=True, slots=True)
class _Weights:
    """Trained weights by GGUF name; each is read when it is asked for."""

    folder: Path
    sources: dict[str, tuple[str, Any]]
    """GGUF name: (its name in the folder, the open file that holds it)."""

    def read(self, name: str, facts: GgufFacts) -> Any:
        """Return float32, rows in llama.cpp's order."""
        key, file = self.sources[name]
        weight = file.get_tensor(key).float().numpy()
        if facts.architecture in ONE_MORE and name.endswith("norm.weight"):
            weight = weight + 1
        heads = rotated_heads(name.replace(".bias", ".weight"), facts)
        if weight.ndim == 1:
            return permute_rows(weight[:, None], heads)[:, 0]
        return permute_rows(weight, heads)


def export_whole_model(model_dir: Path, base_gguf: Path, out_path: Path) -> MergeResult:
    """Write the model in `model_dir` as GGUF, with everything but its weights from `base_gguf`.

    Raises:
        InputError: If the two are not of one shape, or the architecture cannot be written.
        BackendUnavailable: If gguf or safetensors is not installed.
        LemaError: If the disk has no room; no half file is left under the name.
    """
    require_training_libraries()
    check_not_base(out_path, base_gguf)
    facts = read_gguf_facts(base_gguf)
    if facts.architecture not in SUPPORTED:
        raise InputError(
            f"a whole {facts.architecture} model cannot be written as GGUF here (only"
            f" {', '.join(sorted(SUPPORTED))})",
            hint="llama.cpp's convert_hf_to_gguf.py can, or train an adapter",
        )
    reader = open_gguf(base_gguf)
    check_whole(reader, base_gguf)
    partial = out_path.with_name(out_path.name + ".partial")
    with ExitStack() as stack:
        weights = _open_weights(model_dir, facts, stack)
        plan = [_plan(tensor, weights, facts) for tensor in reader.tensors]
        check_room(out_path, sum(tensor.bytes for tensor in plan) + reader.data_offset)
        try:
            with told_disk_errors(out_path), partial.open("wb") as out:
                write_head(out, reader, plan)
                for tensor in plan:
                    out.write(_bytes_of(tensor, weights, facts))
                    pad(out, int(reader.alignment))
            finish(partial, out_path)
        finally:
            partial.unlink(missing_ok=True)
    return MergeResult(out_path, len(plan), 1.0, out_path.stat().st_size, ())


def _open_weights(folder: Path, facts: GgufFacts, stack: ExitStack) -> _Weights:
    import gguf
    from safetensors import SafetensorError, safe_open

    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == facts.architecture)
    names = gguf.get_tensor_name_map(architecture, facts.layers)
    sources: dict[str, tuple[str, Any]] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder} has no *.safetensors", hint="train again")
    for path in files:
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as err:
            raise InputError(f"{path} is damaged: {err}", hint="train again") from err
        for key in _keys(file):
            name = names.get_name(text_module(key), try_suffixes=(".weight", ".bias"))
            if name is not None:
                sources[str(name)] = key, file
    if "token_embd.weight" in sources:  # a head that is the embedding is saved once; some GGUFs have it twice
        sources.setdefault("output.weight", sources["token_embd.weight"])
    return _Weights(folder, sources)


def _keys(file: Any) -> Iterator[str]:
    yield from file.keys()


def _plan(tensor: Any, weights: _Weights, facts: GgufFacts) -> PlannedTensor:
    from gguf import GGMLQuantizationType as Kind

    if tensor.name.endswith(ROPE_FACTORS):  # a table of positions, never trained
        return PlannedTensor(tensor, tensor.tensor_type, int(tensor.n_bytes), None)
    wanted = facts.tensor_shapes[tensor.name]
    if tensor.name not in weights.sources:
        raise InputError(
            f"{weights.folder} has nothing for {tensor.name} of {facts.path}",
            hint="give the GGUF of the model that was trained",
        )
    key, file = weights.sources[tensor.name]
    found = tuple(file.get_slice(key).get_shape())
    if found != wanted:
        raise InputError(
            f"{weights.folder} is of another base than {facts.path}: {tensor.name} is {wanted}, the model's is {found}",
            hint="give the GGUF of the model that was trained",
        )
    is_plain = len(wanted) == 1 or tensor.tensor_type == Kind.F32
    kind = Kind.F32 if is_plain else Kind.F16
    return PlannedTensor(tensor, kind, int(tensor.n_elements) * (4 if is_plain else 2), None)


def _bytes_of(tensor: PlannedTensor, weights: _Weights, facts: GgufFacts) -> bytes:
    import gguf
    import numpy as np

    if tensor.source.name.endswith(ROPE_FACTORS):
        return bytes(tensor.source.data.tobytes())
    number = np.float32 if tensor.kind == gguf.GGMLQuantizationType.F32 else np.float16
    return checked(weights.read(tensor.source.name, facts), number, tensor.source.name)
