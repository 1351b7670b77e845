"""Whether training works here: torch, the card, and a real step through NF4 weights. For `lema doctor`."""

from __future__ import annotations

from typing import Any

from lema_local.training.libraries import quiet_libraries, require_training_libraries
from lema_local.training.models import choose_compute, memory_bytes


def check_torch() -> dict[str, Any]:
    """Return torch's version and the card that it sees.

    Raises:
        BackendUnavailable: If a library that training needs is not installed.
    """
    require_training_libraries()
    import torch

    compute = choose_compute()
    total, free = memory_bytes(compute)
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "device": compute.device,
        "dtype": compute.dtype,
        "card": torch.cuda.get_device_name(0) if compute.is_cuda else None,
        "cards": torch.cuda.device_count(),
        "total_bytes": total,
        "free_bytes": free,
    }


def check_nf4() -> dict[str, Any]:
    """Send gradients through a layer of NF4 weights, and compare it with the layer that it was made from.

    Returns the relative error of its outputs (about 0.08 for normally distributed weights), and whether a finite
    gradient reached the inputs.
    """
    require_training_libraries()
    with quiet_libraries():
        import bitsandbytes
        import torch

        compute = choose_compute()
        torch.manual_seed(0)
        plain = torch.nn.Linear(256, 128, bias=False)
        layer = bitsandbytes.nn.Linear4bit(
            256, 128, bias=False, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True
        )
        layer.load_state_dict(plain.state_dict())
        layer = layer.to(compute.device)
        layer.support_avx512bf16_for_cpu = False  # as lema_local.training.models.load_nf4
        inputs = torch.randn(8, 256, device=compute.device, requires_grad=True)
        outputs = layer(inputs)
        outputs.square().mean().backward()
        expected = plain.to(compute.device)(inputs)
        error = (outputs - expected).norm() / expected.norm()
        gradient = inputs.grad
    return {
        "version": bitsandbytes.__version__,
        "device": compute.device,
        "relative_error": round(float(error), 4),
        "has_gradient": gradient is not None
        and bool(torch.isfinite(gradient).all())
        and bool(gradient.abs().sum() > 0),
    }
