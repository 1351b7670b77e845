"""Loading models in torch: the base in NF4 or unquantized, with or without an adapter."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_local.errors import BackendError, BackendUnavailable, NoRoom
from lema_local.training.base import TrainSettings

WORKING_BYTES = 2**30
"""Beside a model's weights when it answers: activations, KV, logits, a matrix turned into float32."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and in which arithmetic a training runs."""

    device: str
    """`cuda:0` or `cpu`."""
    dtype: str
    """`bfloat16` where the card has it, `float16` on older ones, `float32` on a CPU."""

    @property
    def is_cuda(self) -> bool:
        """True on an NVIDIA card (or AMD's through ROCm)."""
        return self.device.startswith("cuda")

    @property
    def optimizer(self) -> str:
        """The paper's paged AdamW on a card [R]; plain AdamW, the same arithmetic, where nothing can be paged."""
        return "paged_adamw_32bit" if self.is_cuda else "adamw_torch"


def choose_compute() -> Compute:
    """Return the best this machine has; of several processes each takes its own card."""
    import torch

    from lema_local.training.processes import this_process

    if not torch.cuda.is_available():
        return Compute("cpu", "float32")
    return Compute(
        f"cuda:{this_process().local_rank}", "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    )


def check_quantization(compute: Compute) -> None:
    """Say before anything is loaded where bitsandbytes cannot quantize on this machine's card.

    Raises:
        BackendUnavailable: If it was built without support for the card.
    """
    from bitsandbytes.cextension import lib

    if compute.is_cuda and not lib.compiled_with_cuda:
        raise BackendUnavailable(
            "bitsandbytes is installed without support for this machine's card, so nothing can be trained in NF4",
            hint="pip install --upgrade bitsandbytes (its wheels for Linux and Windows hold the CUDA libraries; "
            "python -m bitsandbytes says what is missing), or train.method: lora",
        )


def memory_bytes(compute: Compute) -> tuple[int, int]:
    """Return the bytes of the card, or of the computer, and how many of them are free."""
    if compute.is_cuda:
        import torch

        free, total = torch.cuda.mem_get_info()
        return int(total), int(free)
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


@contextmanager
def borrowed_memory() -> Iterator[None]:
    """Begin and end with nothing on the card that nobody uses any more; within, the peak is measured anew.

    Trainers and models refer to themselves in circles, and torch keeps what is freed: without this the second arm's
    training, and llama.cpp after it, would find the card full.
    """
    _release_memory()
    try:
        yield
    finally:
        _release_memory()


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def load_for_training(
    folder: Path, settings: TrainSettings, compute: Compute, *, is_sharded: bool = False
) -> Any:
    """Return the model that is trained: in NF4 with double quantization, as it is, or whole.

    The weights of a whole model are float32, computed with in the dtype of `compute`: in 16 bits a step of the
    learning rate is lost in rounding. `is_sharded`: the model is to be spread over cards (FSDP).
    """
    if settings.is_quantized:
        return load_nf4(folder, compute, is_sharded=is_sharded)
    return load_plain(folder, Compute(compute.device, "float32") if settings.method == "full" else compute)


def read_dtype(folder: Path) -> Any:
    """Return the torch dtype that a model folder's weights are kept in."""
    import torch
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True).dtype or torch.float16


def load_plain(folder: Path, compute: Compute) -> Any:
    """Return the unquantized model in the dtype of `compute`."""
    return _load(folder, compute)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is held that computes in float32."""

    compute: Compute
    """The device, and the dtype that the weights are kept in."""
    bytes: int
    """That this takes."""


def choose_place(folder: Path, free: Mapping[str, int]) -> Place:
    """Return where the model in a folder is to compute in float32.

    Args:
        folder: With the weights.
        free: Bytes by device, the one to be preferred first; on each, float32 weights come before their own 16 bits.

    Raises:
        NoRoom: If it fits nowhere, however it is kept.
    """
    own = read_dtype(folder)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    places = [
        Place(Compute(device, name), weights * size // own.itemsize + WORKING_BYTES)
        for device in free
        for name, size in (("float32", 4), (str(own).removeprefix("torch."), own.itemsize))
    ]
    for place in places:
        if place.bytes <= free[place.compute.device]:
            return place
    raise NoRoom(
        f"to run the model in {folder} in torch, {places[-1].bytes / 2**30:.1f} GiB of memory are needed, and there"
        f" are {max(free.values()) / 2**30:.1f} GiB"
    )


def free_memory() -> dict[str, int]:
    """Return the bytes that are free on the card, where there is one, and in the computer."""
    devices = dict.fromkeys((choose_compute().device, "cpu"))
    return {device: memory_bytes(Compute(device, "float32"))[1] for device in devices}


def load_in_float32(folder: Path, place: Place) -> Any:
    """Return the unquantized model, computing in float32; weights kept in 16 bits are turned module by module."""
    model = _load(folder, place.compute)
    if place.compute.dtype != "float32":
        for module in model.modules():
            if any(weight.dtype.itemsize < 4 for weight in module.parameters(recurse=False)):
                _compute_in_float32(module)
    return model


def _compute_in_float32(module: Any) -> None:
    """Let a module have float32 weights while it is called, and its own before and after: nothing is rounded."""
    kept: list[Any] = []

    def widen(_: Any, __: Any) -> None:
        for weight in module.parameters(recurse=False):
            kept.append(weight.data)
            weight.data = weight.data.float()

    def restore(_: Any, __: Any, ___: Any) -> None:
        for weight, data in zip(module.parameters(recurse=False), kept, strict=True):
            weight.data = data
        kept.clear()

    module.register_forward_pre_hook(widen)
    module.register_forward_hook(restore)


def load_nf4(folder: Path, compute: Compute, *, is_sharded: bool = False) -> Any:
    """Return the model in NF4 with double quantization."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute.dtype),
        # FSDP spreads only what has the type of the other weights.
        **({"bnb_4bit_quant_storage": getattr(torch, compute.dtype)} if is_sharded else {}),
    )  # fmt: skip
    options = {"device_map": None} if is_sharded else {}
    model = _load(folder, compute, quantization_config=config, **options)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # Else a CPU with AVX512-BF16 repacks the weights at the first step in eval mode: scales rounded to
            # bfloat16, which stays so in training, and layers whose width is no multiple of 32 fail.
            # Source: Linear4bit.forward, bitsandbytes 0.50.2.
            module.support_avx512bf16_for_cpu = False
    return model


def load_adapter(model: Any, adapter_dir: Path) -> Any:
    """Return `model` with the adapter on it, in eval mode."""
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(model, str(adapter_dir), is_trainable=False)
    except (OSError, ValueError, RuntimeError, KeyError) as err:
        raise BackendError(
            f"the adapter in {adapter_dir} does not load: {err}", hint="train it again"
        ) from err
    return adapted.eval()


def _load(folder: Path, compute: Compute, **options: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    chosen = {
        "dtype": getattr(torch, compute.dtype),
        "device_map": {"": compute.device},
        **choose_attention(compute),
        **options,
    }
    try:
        return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **chosen)
    except ImportError as err:
        raise BackendUnavailable(f"the base in {folder} cannot be loaded: {err}", hint="lema doctor") from err
    except (OSError, ValueError, RuntimeError) as err:
        raise BackendError(f"the base in {folder} cannot be loaded: {err}", hint="lema doctor") from err


def choose_attention(compute: Compute) -> dict[str, str]:
    """Return FlashAttention where it is installed and can compute; else nothing: the model's own choice."""
    from transformers.utils import is_flash_attn_2_available

    can_flash = compute.is_cuda and compute.dtype != "float32" and is_flash_attn_2_available()
    return {"attn_implementation": "flash_attention_2"} if can_flash else {}
