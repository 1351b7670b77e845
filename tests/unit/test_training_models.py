"""NF4 on this machine's CPU: training and the comparison see the same weights, whatever the CPU repacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_hf import make_adapter, write_pair

from lema_local.errors import BackendError, BackendUnavailable
from lema_local.training.libraries import quiet_libraries
from lema_local.training.models import Compute, check_quantization, load_adapter, load_nf4, load_plain

CPU = Compute("cpu", "float32")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_libraries():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("pair"), "qwen2").folder


def _logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 5, 9, 30, 31]]), use_cache=False).logits


def test_nf4_gives_the_same_in_training_and_in_comparison(folder: Path) -> None:
    import torch

    model = load_nf4(folder, CPU)
    in_training = _logits(model.train())
    assert torch.equal(_logits(model.eval()), in_training)
    assert torch.equal(_logits(model.train()), in_training)


def test_nf4_weights_are_the_dequantized_ones(folder: Path) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit

    layer = load_nf4(folder, CPU).eval().model.layers[0].self_attn.q_proj
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(layer(x), x @ weight.T + layer.bias, atol=1e-5)


def test_nf4_is_double_quantized_and_near_the_base(folder: Path) -> None:
    import torch

    nf4, plain = load_nf4(folder, CPU), load_plain(folder, CPU)
    assert nf4.model.layers[0].mlp.up_proj.weight.quant_state.nested
    assert nf4.lm_head.weight.dtype == torch.float32
    error = (_logits(nf4) - _logits(plain)).norm() / _logits(plain).norm()
    assert 1e-3 < float(error) < 0.5


def test_adapter_loads_and_changes_the_model(folder: Path, tmp_path: Path) -> None:
    import torch

    adapter = make_adapter(folder, tmp_path / "adapter")
    plain = _logits(load_plain(folder, CPU))
    assert not torch.allclose(_logits(load_adapter(load_plain(folder, CPU), adapter)), plain, atol=0.1)


def test_damaged_adapter_is_told(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter")
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(BackendError, match=r"the adapter in .* does not load"):
        load_adapter(load_plain(folder, CPU), adapter)


def test_bitsandbytes_without_support_for_the_card_is_told() -> None:
    from bitsandbytes.cextension import lib

    check_quantization(CPU)
    if lib.compiled_with_cuda:
        pytest.skip("this bitsandbytes has support for cards")
    with pytest.raises(BackendUnavailable, match="without support for this machine's card") as caught:
        check_quantization(Compute("cuda:0", "bfloat16"))
    assert "pip install --upgrade bitsandbytes" in (caught.value.hint or "")
    assert caught.value.exit_code == 2
