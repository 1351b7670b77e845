"""NF4 on this machine's CPU: training and the comparison see the same weights, whatever the CPU repacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_hf import make_adapter, write_pair

from lema_local.errors import BackendError, BackendUnavailable, NoRoom
from lema_local.training.libraries import quiet_libraries
from lema_local.training.models import (
    WORKING_BYTES,
    Compute,
    Place,
    check_quantization,
    choose_place,
    load_adapter,
    load_in_float32,
    load_nf4,
    load_plain,
)

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


@pytest.mark.parametrize(
    ("card", "computer", "place"),
    [
        (4.1, 9, ("cuda:0", "float32")),
        (2.1, 9, ("cuda:0", "float16")),
        (1.9, 4.1, ("cpu", "float32")),
        (1.9, 2.1, ("cpu", "float16")),
    ],
)
def test_trained_student_is_run_where_there_is_room(
    folder: Path, card: float, computer: float, place: tuple[str, str]
) -> None:
    parameters = sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 2
    free = {
        device: int(share * parameters) + WORKING_BYTES
        for device, share in (("cuda:0", card), ("cpu", computer))
    }
    assert choose_place(folder, free).compute == Compute(*place)


def test_without_room_anywhere_it_is_told_what_it_takes(folder: Path) -> None:
    with pytest.raises(NoRoom, match=r"1\.0 GiB of memory are needed, and there are 0\.5 GiB"):
        choose_place(folder, {"cuda:0": 2**28, "cpu": 2**29})


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_weights_kept_in_16_bits_compute_as_those_in_32(tmp_path: Path, family: Any) -> None:
    import torch

    folder = write_pair(tmp_path, family).folder
    adapter = make_adapter(folder, tmp_path / "adapter", r=4)
    narrow = load_in_float32(folder, Place(Compute("cpu", "float16"), 0))
    kept = {name: weight.clone() for name, weight in narrow.state_dict().items()}
    assert torch.equal(_logits(narrow), _logits(load_plain(folder, CPU)))
    assert all(torch.equal(weight, kept[name]) for name, weight in narrow.state_dict().items())
    assert {weight.dtype for weight in narrow.parameters()} == {torch.float16}
    with_adapter = _logits(load_adapter(narrow, adapter))
    assert torch.equal(with_adapter, _logits(load_adapter(load_plain(folder, CPU), adapter)))
    assert with_adapter.dtype == torch.float32
