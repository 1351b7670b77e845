"""Loading models in torch: the base in NF4 or unquantized, with or without an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_local.errors import BackendError, BackendUnavailable
from lema_local.training.base import TrainSettings


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
    """Return the best this machine has."""
    import torch

    if not torch.cuda.is_available():
        return Compute("cpu", "float32")
    return Compute("cuda:0", "bfloat16" if torch.cuda.is_bf16_supported() else "float16")


def load_for_training(folder: Path, settings: TrainSettings, compute: Compute) -> Any:
    """Return the base that an adapter is put on: in NF4 with double quantization, or as it is."""
    return load_nf4(folder, compute) if settings.method == "qlora" else load_plain(folder, compute)


def load_plain(folder: Path, compute: Compute) -> Any:
    """Return the unquantized model in the dtype of `compute`."""
    return _load(folder, compute)


def load_nf4(folder: Path, compute: Compute) -> Any:
    """Return the model in NF4 with double quantization."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute.dtype),
    )  # fmt: skip
    model = _load(folder, compute, quantization_config=config)
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

    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, compute.dtype), device_map={"": compute.device}, local_files_only=True,
            **options,
        )  # fmt: skip
    except ImportError as err:
        raise BackendUnavailable(f"the base in {folder} cannot be loaded: {err}", hint="lema doctor") from err
    except (OSError, ValueError, RuntimeError) as err:
        raise BackendError(f"the base in {folder} cannot be loaded: {err}", hint="lema doctor") from err
