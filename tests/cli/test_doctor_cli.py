"""`lema doctor`, on this machine, for real."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command import lema as lema_process
from fake_teacher import FakeTeacher

from lema_local import doctor
from lema_local.cli import lema
from lema_local.students.checks import read_flags

SECRET = "sk-doctor-0123456789abcdef"


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    home = tmp_path_factory.mktemp("home")
    done = lema_process("doctor", "--json", home=home, OPENAI_API_KEY=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)}


def test_everything_is_looked_at_and_works_here(examined: dict[str, dict[str, Any]]) -> None:
    assert set(examined) == {
        "system", "memory", "LEMA_HOME", "runs", "keys", "llama.cpp", "student", "torch", "bitsandbytes",
    }  # fmt: skip
    assert all(one["state"] in {"ok", "warning"} for one in examined.values())
    assert all(one["mend"] for one in examined.values() if one["state"] != "ok")


def test_the_student_decodes_and_a_gradient_goes_through_nf4(examined: dict[str, dict[str, Any]]) -> None:
    assert examined["student"]["facts"]["tokens"] >= 1
    facts = examined["bitsandbytes"]["facts"]
    assert facts["has_gradient"] is True
    assert 0.01 < facts["relative_error"] < 0.2  # 4 bits: neither exact nor far off


def test_names_of_keys_are_told_and_nothing_of_their_values(examined: dict[str, dict[str, Any]]) -> None:
    assert "OPENAI_API_KEY" in examined["keys"]["text"]


def test_a_student_that_is_no_gguf_is_failed_with_the_way_on(tmp_path: Path) -> None:
    file = tmp_path / "my model.gguf"
    file.write_bytes(b"PK\x03\x04 no model")
    check = doctor._check_student(str(file))
    assert check.state == "failed"
    assert "is no GGUF file" in check.text
    assert check.mend is not None


def test_a_student_of_the_hub_is_not_fetched(tmp_path: Path) -> None:
    check = doctor._check_student("hf:some/where/model.gguf")
    assert check.state == "failed"
    assert "hf:some/where/model.gguf" in check.text


def test_a_teacher_is_asked_what_it_serves_and_a_missing_one_is_told() -> None:
    with FakeTeacher() as server:
        assert doctor._check_teacher("openai/fake", server.url).state == "ok"
    check = doctor._check_teacher("openai/fake", server.url)
    assert check.state == "failed"
    assert "cannot be reached" in check.text
    assert check.mend is not None


def test_a_provider_without_a_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    check = doctor._check_teacher("gpt-4o", None)
    assert (check.state, "OPENAI_API_KEY" in f"{check.text} {check.mend}") == ("failed", True)


def test_a_home_that_cannot_be_made_is_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("LEMA_HOME", str(file / "home"))
    found = {one.name: one for one in doctor._check_disk(tmp_path)}
    assert found["LEMA_HOME"].state == "failed"
    assert (found["LEMA_HOME"].mend or "").startswith("export LEMA_HOME=")


def test_a_library_for_another_processor_ends_only_its_own_process() -> None:
    assert doctor._describe_end(-4, "") == "it ended with SIGILL: it was built for another processor"
    assert doctor._describe_end(1, f"Traceback\nOSError: bad key {SECRET}") == "OSError: bad key ***"


def test_the_command_that_rebuilds_can_be_pasted() -> None:
    words = shlex.split(doctor._rebuild("-DGGML_CUDA=on -DX=1", "0.3.36"))
    assert words[0] == "CMAKE_ARGS=-DGGML_CUDA=on -DX=1"
    assert words[-1] == "llama-cpp-python==0.3.36"


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        ("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | REPACK = 1 | ", {"CPU", "SSE3", "AVX2", "REPACK"}),
        ("CUDA : ARCHS = 860 | USE_GRAPHS = 1 | CPU : AVX2 = 1 |", {"CUDA", "USE_GRAPHS", "CPU", "AVX2"}),
        ("Metal : EMBED_LIBRARY = 1 | CPU : NEON = 1 | ", {"Metal", "EMBED_LIBRARY", "CPU", "NEON"}),
        ("", set()),
    ],
)
def test_flags_are_read_from_what_llama_cpp_says(said: str, flags: set[str]) -> None:
    assert read_flags(said) == flags


def test_a_missing_recipe_is_told() -> None:
    result = CliRunner().invoke(lema, ["doctor", "nowhere.yaml"])
    assert result.exit_code == 2
    assert "no recipe nowhere.yaml" in result.stderr
