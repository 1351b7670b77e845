"""Bases: a GGUF converted once and exactly, a folder as it is, and what cannot be a base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from tiny_gguf import TinyModel, write_model
from tiny_hf import Family, make_model, vocabulary, write_gguf, write_pair

from lema_local.errors import BackendUnavailable, InputError, LemaError
from lema_local.students.inspection import requantize_gguf
from lema_local.training.base import BaseFacts
from lema_local.training.bases import FACTS_NAME, check_matches_gguf, open_base
from lema_local.training.gguf_files import read_gguf_facts


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "llama tied",
        "mistral",
        "qwen2",
        "qwen2 tied",
        "qwen3",
        "qwen3 tied",
        "gemma2",
        "gemma3",
        "phi3",
    ],
)
def test_converted_gguf_is_the_very_model(tmp_path: Path, family: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    name, _, tied = family.partition(" ")
    pair = write_pair(tmp_path, cast(Family, name), is_tied=bool(tied))
    base = open_base(pair.gguf_path)
    assert base.facts.kind == "gguf"
    made, source = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto") for folder in (base.folder, pair.folder)
    )
    assert {weight.dtype for weight in made.state_dict().values()} == {torch.float16}
    assert made.state_dict().keys() == source.state_dict().keys()
    for key, weight in source.state_dict().items():
        assert torch.allclose(made.state_dict()[key], weight, atol=1e-6, rtol=0), key
    ids = torch.arange(2, 60)[None]
    with torch.no_grad():
        assert torch.equal(made.float()(ids).logits, source.float()(ids).logits)
    check_matches_gguf(open_base(pair.folder).facts, read_gguf_facts(pair.gguf_path))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_another_model_of_the_same_shape_is_told(tmp_path: Path, family: Family) -> None:
    pair = write_pair(tmp_path, family)
    (tmp_path / "other").mkdir()
    other = write_pair(tmp_path / "other", family, seed=1)
    with pytest.raises(InputError, match="another model of the same shape"):
        check_matches_gguf(open_base(pair.folder).facts, read_gguf_facts(other.gguf_path))
    requantize_gguf(pair.gguf_path, tmp_path / "q.gguf", "q8_0")
    check_matches_gguf(open_base(pair.folder).facts, read_gguf_facts(tmp_path / "q.gguf"))


def test_second_opening_does_not_convert_again(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    first = open_base(pair.gguf_path)
    made_at = (first.folder / FACTS_NAME).stat().st_mtime_ns
    renamed = pair.gguf_path.rename(tmp_path / "renamed.gguf")
    second = open_base(renamed)
    assert second.folder == first.folder
    assert (second.folder / FACTS_NAME).stat().st_mtime_ns == made_at
    assert second.facts == first.facts.model_copy(update={"source": str(renamed)})


def test_half_a_conversion_is_done_again(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    base = open_base(pair.gguf_path)
    (base.folder / FACTS_NAME).unlink()
    partial = base.folder.with_suffix(".partial")
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"torn")
    assert open_base(pair.gguf_path).facts == base.facts
    assert not partial.exists()


def test_special_tokens_come_from_the_metadata(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = open_base(write_pair(tmp_path).gguf_path)
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|fim|>")
    assert base.facts.eos_id == vocabulary().index("<|endoftext|>")
    assert base.facts.stop_ids == tuple(sorted(map(vocabulary().index, ("<|endoftext|>", "<|im_end|>"))))
    generation = json.loads((base.folder / "generation_config.json").read_text())
    assert tuple(generation["eos_token_id"]) == base.facts.stop_ids


def test_folder_and_gguf_of_one_model_match(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    facts = open_base(pair.folder).facts
    assert (facts.kind, facts.layers, facts.hidden_size, facts.vocab_size) == (
        "folder",
        2,
        64,
        len(vocabulary()),
    )
    check_matches_gguf(facts, read_gguf_facts(pair.gguf_path))


def test_base_of_another_shape_is_told_by_what_differs(tmp_path: Path) -> None:
    gguf = read_gguf_facts(write_model(tmp_path / "other.gguf", TinyModel(layers=3, hidden=32)))
    facts = open_base(write_pair(tmp_path).folder).facts
    with pytest.raises(
        InputError, match=r"layers 2 against 3, hidden size 64 against 32, vocabulary \d+ against \d+"
    ):
        check_matches_gguf(facts, gguf)


def test_folder_hash_follows_the_weights(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    before = open_base(pair.folder).facts.sha256
    make_model("llama", seed=9).half().save_pretrained(pair.folder)
    assert open_base(pair.folder).facts.sha256 != before


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _quantized(folder: Path) -> None:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq"}})
    )


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_config, "no config.json"),
        (_no_weights, r"no \*.safetensors"),
        (_quantized, "quantized weights"),
        (_broken_config, "config.json cannot be read"),
    ],
)
def test_folder_that_is_no_base_is_told_why(tmp_path: Path, spoil: Any, message: str) -> None:
    pair = write_pair(tmp_path)
    spoil(pair.folder)
    with pytest.raises(InputError, match=message):
        open_base(pair.folder)


def test_what_is_no_base_at_all(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    with pytest.raises(InputError, match=r"notes.txt is no GGUF file: it starts with b'no m'"):
        open_base(text)
    with pytest.raises(InputError, match=r"no such base: nowhere\.gguf"):
        open_base("nowhere.gguf")


def test_damaged_gguf_is_told(tmp_path: Path) -> None:
    path = write_pair(tmp_path).gguf_path
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="damaged GGUF"):
        open_base(path)


def test_architecture_without_a_proof_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "mamba.gguf", TinyModel(architecture="mamba"))
    with pytest.raises(
        InputError, match=r"mamba cannot be converted.*only gemma2, gemma3, llama, phi3, qwen2, qwen3"
    ):
        open_base(path)


def test_gguf_with_scaled_positions_is_refused(tmp_path: Path) -> None:
    path = write_gguf(make_model("llama"), "llama", tmp_path / "scaled.gguf", rope_scaling="yarn")
    with pytest.raises(InputError, match=r"scaling of positions \(llama.rope.scaling.type = yarn\) is lost"):
        open_base(path)


def test_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = write_pair(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(LemaError, match=r"no room to convert .*GiB needed"):
        open_base(pair.gguf_path)
    assert not list((tmp_path / "home" / "bases").glob("*.partial"))


def test_hub_name_offline_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackendUnavailable, match="someone/some-model cannot be fetched from the hub"):
        open_base("someone/some-model")


def test_facts_are_the_file_beside_the_weights(tmp_path: Path) -> None:
    base = open_base(write_pair(tmp_path).gguf_path)
    assert BaseFacts.model_validate_json((base.folder / FACTS_NAME).read_text()) == base.facts
