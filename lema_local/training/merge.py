"""Base GGUF + adapter = one GGUF, tensor by tensor, some rows at a time: memory does not grow with the model.

Reads   the base's GGUF, an adapter folder
Writes  one GGUF: metadata (tokenizer and chat template among it) byte for byte as in the base, adapted matrices in 16
        bits (32 where the base's are), all other tensors as they are

The file is laid out here, since gguf's writer would encode the metadata anew. Source of the layout: docs/gguf.md
(ggml-org/ggml), version 3.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lema_local.errors import InputError, LemaError
from lema_local.jsonl import finish, told_disk_errors
from lema_local.training.base import MergeResult
from lema_local.training.export import Lora, check_not_base, read_adapter
from lema_local.training.gguf_files import open_gguf
from lema_local.training.libraries import require_training_libraries

CHUNK_ELEMENTS = 4 * 2**20
"""Elements of a matrix that are computed at once: some 16 MiB of float32, a few times over."""
HEADER_BYTES = 24  # magic, version, number of tensors, number of metadata entries


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the file to be written."""

    source: Any
    """gguf's ReaderTensor of the base."""
    kind: Any
    """GGMLQuantizationType in the new file."""
    bytes: int
    lora: Lora | None


def merge_adapter(adapter_dir: Path, base_gguf: Path, out_path: Path) -> MergeResult:
    """Write `base_gguf` with the adapter in `adapter_dir` added to its weights.

    Raises:
        InputError: If the adapter does not fit, or the base has a type that gguf cannot dequantize.
        BackendUnavailable: If gguf or safetensors is not installed.
        LemaError: If the disk has no room; no half file is left under the name.
    """
    require_training_libraries()
    check_not_base(out_path, base_gguf)
    adapter = read_adapter(adapter_dir, base_gguf)
    reader = open_gguf(base_gguf)
    check_whole(reader, base_gguf)
    loras = {lora.name: lora for lora in adapter.loras}
    plan = [_plan_tensor(tensor, loras.get(tensor.name)) for tensor in reader.tensors]
    check_room(out_path, sum(tensor.bytes for tensor in plan) + reader.data_offset)
    partial = out_path.with_name(out_path.name + ".partial")
    try:
        with told_disk_errors(out_path), partial.open("wb") as out, base_gguf.open("rb") as base:
            write_head(out, reader, plan)
            for tensor in plan:
                for part in _parts(base, tensor, adapter.scale):
                    out.write(part)
                pad(out, int(reader.alignment))
        finish(partial, out_path)
    finally:
        partial.unlink(missing_ok=True)
    return MergeResult(out_path, len(loras), adapter.scale, out_path.stat().st_size, adapter.notes)


def check_room(path: Path, needed: int) -> None:
    """Stop before a disk runs full.

    Raises:
        LemaError: If fewer than `needed` bytes are free.
    """
    with told_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise LemaError(
            f"no room for {path}: {needed / 2**20:,.1f} MiB needed, {free / 2**20:,.1f} MiB free",
            hint="free some space, or give a folder on a larger disk",
        )


def check_whole(reader: Any, path: Path) -> None:
    """Stop at a file that is a part of one, or of a big-endian machine.

    Raises:
        InputError: If it is.
    """
    import gguf

    split = reader.fields.get("split.count")
    if split is not None and int(split.contents()) > 1:
        raise InputError(f"{path} is one part of a split GGUF", hint="join it: llama-gguf-split --merge")
    if reader.endianess != gguf.GGUFEndian.LITTLE:
        raise InputError(f"{path} is a big-endian GGUF", hint="convert it: gguf-convert-endian")


def _plan_tensor(tensor: Any, lora: Lora | None) -> PlannedTensor:
    from gguf import GGMLQuantizationType as Kind

    if lora is None:
        return PlannedTensor(tensor, tensor.tensor_type, int(tensor.n_bytes), None)
    kind = Kind.F32 if tensor.tensor_type == Kind.F32 else Kind.F16
    return PlannedTensor(tensor, kind, int(tensor.n_elements) * (4 if kind == Kind.F32 else 2), lora)


def write_head(out: IO[bytes], reader: Any, plan: Sequence[PlannedTensor]) -> None:
    """Write header, metadata as it is, and where each tensor will be."""
    end = reader.tensors[0].field.offset  # entries of tensors follow the metadata
    out.write(bytes(reader.data[:end]))
    offset = 0
    for tensor in plan:
        name, shape = tensor.source.name.encode(), [int(size) for size in tensor.source.shape]
        out.write(struct.pack(f"<Q{len(name)}sI", len(name), name, len(shape)))
        out.write(struct.pack(f"<{len(shape)}QIQ", *shape, int(tensor.kind), offset))
        offset += tensor.bytes + -tensor.bytes % int(reader.alignment)
    pad(out, int(reader.alignment))


def pad(out: IO[bytes], alignment: int) -> None:
    """Fill up to the next multiple of `alignment` bytes."""
    out.write(bytes(-out.tell() % alignment))


def _parts(base: IO[bytes], tensor: PlannedTensor, scale: float) -> Iterator[bytes]:
    """Yield a tensor's bytes in the new file."""
    import gguf
    import numpy as np

    source = tensor.source
    base.seek(source.data_offset)
    if tensor.lora is None:
        left = int(source.n_bytes)
        while left:
            part = base.read(min(left, 2**24))
            left -= len(part)
            yield part
        return
    columns, rows = (int(size) for size in source.shape)
    row_bytes, step = int(source.n_bytes) // rows, max(1, CHUNK_ELEMENTS // columns)
    number = np.float32 if tensor.kind == gguf.GGMLQuantizationType.F32 else np.float16
    for start in range(0, rows, step):
        count = min(step, rows - start)
        raw = np.frombuffer(base.read(count * row_bytes), np.uint8).reshape(count, row_bytes)
        weights = _dequantize(raw, source)
        delta = tensor.lora.b[start : start + count] @ tensor.lora.a
        yield checked(weights + np.float32(scale) * delta, number, source.name)


def _dequantize(raw: Any, source: Any) -> Any:
    import gguf

    try:
        return gguf.dequantize(raw, source.tensor_type)
    except NotImplementedError as err:
        raise InputError(
            f"the base's {source.name} is {source.tensor_type.name}, which gguf cannot dequantize",
            hint="give the f16 GGUF of the same model",
        ) from err


def checked(merged: Any, number: Any, name: str) -> bytes:
    """Return a tensor's bytes as numbers of a type.

    Raises:
        InputError: If a value does not fit into it.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        stored = merged.astype(number)
    if not np.isfinite(stored).all():
        raise InputError(f"{name} has values that 16 bits cannot hold", hint="give a base GGUF in F32")
    return bytes(stored.tobytes())
