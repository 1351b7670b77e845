"""Base GGUF + adapter merged in GGUF space: the same student, metadata untouched, memory that does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from command import lema as run_lema
from tiny_gguf import CHAT_TEMPLATE, TinyModel, write_model
from tiny_hf import FAMILIES, Pair, make_adapter, make_examples, write_pair

from lema_local.cli import lema
from lema_local.errors import InputError, LemaError
from lema_local.stages.export import answer_greedily, check_exported
from lema_local.students import open_student
from lema_local.students.inspection import requantize_gguf
from lema_local.training.base import FidelityResult
from lema_local.training.export import export_adapter
from lema_local.training.local import LocalTrainer
from lema_local.training.merge import merge_adapter

PROMPTS = [example.prompt for example in make_examples(8)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def adapter(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(pair.folder, tmp_path_factory.mktemp("adapter"))


def _run(*arguments: Any) -> Result:
    return CliRunner().invoke(lema, [str(argument) for argument in arguments])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def _compare(pair: Pair, adapter: Path, merged: Path) -> FidelityResult:
    """Compare the merged model with the adapter in torch; the base alone is the control."""
    bare, one = open_student(str(pair.gguf_path)), open_student(str(merged))
    try:
        trainer = LocalTrainer(pair.folder, pair.gguf_path)
        return check_exported(trainer, adapter, PROMPTS, adapted=one, bare=bare, max_tokens=8)
    finally:
        one.close()
        bare.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_model_is_the_trained_student(tmp_path: Path, family: Any) -> None:
    pair = write_pair(tmp_path, family)
    adapter = make_adapter(pair.folder, tmp_path / "adapter", lora_alpha=32)
    merged = tmp_path / "merged.gguf"
    done = _run("export", adapter, "--base-gguf", pair.gguf_path, "--merge", "--out", merged, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["type"], result["bytes"]) == ("f16", merged.stat().st_size)
    fidelity = _compare(pair, adapter, merged)
    assert fidelity.divergence is not None
    assert fidelity.without_adapter is not None
    assert fidelity.divergence.is_within_bound, fidelity.divergence
    assert not fidelity.without_adapter.is_within_bound
    assert sorted(path.name for path in tmp_path.glob("merged.gguf*")) == ["merged.gguf"]


def test_metadata_and_other_tensors_are_untouched(pair: Pair, adapter: Path, tmp_path: Path) -> None:
    import gguf

    merge_adapter(adapter, pair.gguf_path, tmp_path / "merged.gguf")
    (fields, tensors), (before, sources) = _read(tmp_path / "merged.gguf"), _read(pair.gguf_path)
    assert fields == before
    assert list(tensors) == list(sources)
    lora, loras = _read_lora(adapter, pair, tmp_path)
    for name, tensor in tensors.items():
        weights = gguf.dequantize(np.array(sources[name].data), sources[name].tensor_type)
        if f"{name}.lora_a" in loras:
            weights = weights + lora * (loras[f"{name}.lora_b"] @ loras[f"{name}.lora_a"])
            assert tensor.tensor_type.name == "F16"
            assert np.array_equal(tensor.data, weights.astype(np.float16)), name
        else:
            assert bytes(tensor.data) == bytes(sources[name].data), name


def _read_lora(adapter: Path, pair: Pair, folder: Path) -> tuple[np.float32, dict[str, np.ndarray]]:
    scale = export_adapter(adapter, pair.gguf_path, folder / "adapter.gguf").scale
    return np.float32(scale), {
        name: np.array(tensor.data) for name, tensor in _read(folder / "adapter.gguf")[1].items()
    }


@pytest.mark.parametrize("kind", ["q4_k_m", "q4_0", "q8_0", "f16"])
def test_every_type_keeps_tokenizer_and_template_and_answers(tmp_path: Path, kind: str) -> None:
    model = TinyModel(hidden=256, feed_forward=256, chat_template=CHAT_TEMPLATE)
    base, merged = write_model(tmp_path / "base.gguf", model), tmp_path / "merged.gguf"
    adapter = _adapter_for(model, tmp_path / "adapter")
    done = _run("export", adapter, "--base-gguf", base, "--merge", "--type", kind, "--out", merged)
    assert done.exit_code == 0, done.output
    assert f"{kind}, 4 matrices merged, scale 2" in done.stdout
    (fields, _), (before, _) = _read(merged), _read(base)
    tokenizer = {name: value for name, value in before.items() if name.startswith("tokenizer.")}
    assert "tokenizer.chat_template" in tokenizer
    assert tokenizer.items() <= fields.items()
    student = open_student(str(merged))
    assert student.describe()["quantization"].lower().replace(" - medium", "_m").startswith(kind[:4])
    assert len(answer_greedily(student)(["How many?"], 4)) == 1
    student.close()


def _adapter_for(model: TinyModel, folder: Path) -> Path:
    """Write an adapter of rank 4 for the attention's output and the third matrix of the feed-forward part."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    draw = torch.Generator().manual_seed(3)
    shapes = {
        "self_attn.o_proj": (model.hidden, model.hidden),
        "mlp.down_proj": (model.hidden, model.feed_forward),
    }
    tensors = {}
    for layer in range(model.layers):
        for name, (rows, columns) in shapes.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(4, columns, generator=draw)
            tensors[f"{key}.lora_B.weight"] = 0.02 * torch.randn(rows, 4, generator=draw)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(shapes)})
    )
    return folder


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_k_m", "q6_k"])
def test_quantized_base_is_merged_from_its_own_values(tmp_path: Path, kind: str) -> None:
    import gguf

    model = TinyModel(hidden=256, feed_forward=256)
    write_model(tmp_path / "f32.gguf", model)
    base = tmp_path / "base.gguf"
    requantize_gguf(tmp_path / "f32.gguf", base, kind)
    adapter = _adapter_for(model, tmp_path / "adapter")
    merge_adapter(adapter, base, tmp_path / "merged.gguf")
    tensors, sources = _read(tmp_path / "merged.gguf")[1], _read(base)[1]
    pair = Pair(tmp_path, base)
    scale, loras = _read_lora(adapter, pair, tmp_path)
    name = "blk.1.ffn_down.weight"
    before = gguf.dequantize(np.array(sources[name].data), sources[name].tensor_type)
    delta = scale * (loras[f"{name}.lora_b"] @ loras[f"{name}.lora_a"])
    assert np.abs(delta).max() > 0.05
    assert np.array_equal(tensors[name].data, (before + delta).astype(np.float16))
    assert tensors["blk.1.ffn_up.weight"].tensor_type == sources["blk.1.ffn_up.weight"].tensor_type


MEASURED = """
import resource, sys
from pathlib import Path
from lema_local.training.merge import merge_adapter
import lema_local.training.export, gguf, safetensors.torch, torch
def peak_mib(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak_mib()
merge_adapter(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
print(peak_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units elsewhere")
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    # Half a gigabyte of feed-forward matrices; in float32 the largest takes 128 MiB.
    model = TinyModel(hidden=512, feed_forward=65536, layers=3, is_half=True)
    base = write_model(tmp_path / "base.gguf", model)
    assert base.stat().st_size > 500 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, _adapter_for(model, tmp_path / "adapter"), base, tmp_path / "merged.gguf"],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200


def test_base_itself_is_never_written_over(pair: Pair, adapter: Path) -> None:
    before = pair.gguf_path.read_bytes()
    for more in ([], ["--merge"], ["--merge", "--type", "q4_0"]):
        done = _run("export", adapter, "--base-gguf", pair.gguf_path, "--out", pair.gguf_path, *more)
        assert done.exit_code == 2
        assert "is the base itself" in done.stderr
    assert pair.gguf_path.read_bytes() == before


def test_full_disk_is_told_and_the_old_file_stays(
    pair: Pair, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    out = tmp_path / "merged.gguf"
    out.write_text("the old one")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(LemaError, match=r"no room for .*merged.gguf: 0.2 MiB needed, 0.0 MiB free"):
        merge_adapter(adapter, pair.gguf_path, out)
    assert out.read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["merged.gguf"]


def test_values_beyond_16_bits_are_told_and_nothing_is_left(pair: Pair, tmp_path: Path) -> None:
    adapter = make_adapter(pair.folder, tmp_path / "adapter", lora_alpha=1e7)
    with pytest.raises(InputError, match=r"blk.0.\w+.weight has values that 16 bits cannot hold"):
        merge_adapter(adapter, pair.gguf_path, tmp_path / "merged.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_type_without_merge_is_refused(pair: Pair, adapter: Path, tmp_path: Path) -> None:
    done = _run(
        "export", adapter, "--base-gguf", pair.gguf_path, "--type", "q4_0", "--out", tmp_path / "a.gguf"
    )
    assert done.exit_code == 2
    assert "--type goes with --merge" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files there")
def test_disk_that_runs_full_while_quantizing_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    base, out = write_model(tmp_path / "base.gguf"), tmp_path / "q8.gguf"
    out.write_text("the old one")
    done = run_lema(
        "students",
        "requantize",
        base,
        out,
        "--type",
        "q8_0",
        home=tmp_path / "home",
        before=_allow_small_files,
    )
    assert done.returncode == 1, done.stderr
    assert f"cannot write {out}" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == ["base.gguf", "q8.gguf"]


def _allow_small_files() -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_base_of_a_type_that_cannot_be_read_is_told(pair: Pair, adapter: Path, tmp_path: Path) -> None:
    import gguf

    base = tmp_path / "odd.gguf"
    reader, writer = gguf.GGUFReader(pair.gguf_path), gguf.GGUFWriter(base, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    odd = gguf.GGMLQuantizationType.Q8_1
    for tensor in reader.tensors:
        if tensor.name == "blk.1.ffn_down.weight":
            rows = np.zeros((int(tensor.shape[1]), int(tensor.shape[0]) // 32 * 40), np.uint8)
            writer.add_tensor(tensor.name, rows, raw_dtype=odd)
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    with pytest.raises(InputError, match=r"blk.1.ffn_down.weight is Q8_1, which gguf cannot dequantize"):
        merge_adapter(adapter, base, tmp_path / "merged.gguf")
    assert not list(tmp_path.glob("merged*"))
