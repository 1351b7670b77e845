from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap

import pytest

from lema_local.errors import InputError, LemaError, RecipeError
from lema_local.keys import check_url, keys_path, load_keys, read_keys, remove_key, set_key
from lema_local.recipe import check_recipe
from lema_local.students import open_student
from lema_local.teachers import open_teacher
from lema_local.teachers.secrets import mask_secrets

# LiteLLM's import, whose warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

KEY = "plainmarkedkey0123456789"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set and taken away, so that it is restored also where the code under test sets it.
    for name in ("OPENAI_API_KEY", "LEMA_TEACHER_KEY", "MY_SECRET"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_keys_are_kept_replaced_and_forgotten() -> None:
    assert read_keys() == {}
    set_key("OPENAI_API_KEY", f"  {KEY}\n")
    set_key("LEMA_TEACHER_KEY", "another-key-1")
    set_key("LEMA_TEACHER_KEY", "another-key-2")
    assert read_keys() == {"OPENAI_API_KEY": KEY, "LEMA_TEACHER_KEY": "another-key-2"}
    remove_key("LEMA_TEACHER_KEY")
    assert read_keys() == {"OPENAI_API_KEY": KEY}
    with pytest.raises(InputError, match="holds no LEMA_TEACHER_KEY"):
        remove_key("LEMA_TEACHER_KEY")


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_the_file_is_its_owners_alone_whatever_the_umask() -> None:
    before = os.umask(0)
    try:
        set_key("OPENAI_API_KEY", KEY)
    finally:
        os.umask(before)
    assert stat.S_IMODE(keys_path().stat().st_mode) == 0o600
    assert [path.name for path in keys_path().parent.iterdir()] == ["keys.json"]


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused_with_the_way_to_mend_it(mode: int) -> None:
    set_key("OPENAI_API_KEY", KEY)
    keys_path().chmod(mode)
    for work in (read_keys, load_keys, lambda: set_key("OPENAI_API_KEY", KEY)):
        with pytest.raises(InputError, match="others may read") as caught:
            work()
        assert caught.value.hint
        assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", ["{", f'["{KEY}"]', f'{{"OPENAI_API_KEY": ["{KEY}"]}}', f"{KEY}\xff"])
def test_a_damaged_file_is_told_without_its_content(content: str) -> None:
    keys_path().write_bytes(content.encode("latin-1"))
    keys_path().chmod(0o600)
    with pytest.raises(InputError) as caught:
        read_keys()
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["openai_api_key", "PATH", "", "OPENAI KEY", "KEY=x", "1KEY"])
def test_only_names_of_keys_are_taken(name: str) -> None:
    with pytest.raises(InputError, match="no name of a key"):
        set_key(name, KEY)
    assert not keys_path().exists()


@pytest.mark.parametrize(
    "value", ["", "short", "two words of a key", "key\x00key\x00key", "schlüssel-schlüssel"]
)
def test_what_is_no_key_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(InputError) as caught:
        set_key("OPENAI_API_KEY", value)
    assert value not in str(caught.value) or not value
    assert not keys_path().exists()


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    set_key("OPENAI_API_KEY", KEY)
    set_key("LEMA_TEACHER_KEY", KEY + "2")
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    load_keys()
    assert os.environ["OPENAI_API_KEY"] == "from-the-environment"
    assert os.environ["LEMA_TEACHER_KEY"] == KEY + "2"
    assert mask_secrets(f"wrong key {KEY}2") == "wrong key ***"


def test_a_provider_is_asked_with_the_key_of_the_file() -> None:
    with pytest.raises(LemaError, match="OPENAI_API_KEY is not set") as caught:
        open_teacher("gpt-4o")
    assert caught.value.hint == "export OPENAI_API_KEY=..., or: lema keys set OPENAI_API_KEY"
    set_key("OPENAI_API_KEY", KEY)
    assert open_teacher("gpt-4o").name == "gpt-4o"


SET_ON_A_FULL_DISK = """
    import resource
    from lema_local.errors import LemaError
    from lema_local.keys import set_key
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    try:
        set_key("LEMA_TEACHER_KEY", "another-key-of-mine")
    except LemaError as err:
        print(err.exit_code, err)
"""


@pytest.mark.skipif(os.name == "nt", reason="resource limits are POSIX")
def test_on_a_full_disk_the_file_stays_as_it_was() -> None:
    set_key("OPENAI_API_KEY", KEY)
    before = keys_path().read_bytes()
    command = [sys.executable, "-c", textwrap.dedent(SET_ON_A_FULL_DISK)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 cannot write")
    assert keys_path().read_bytes() == before
    assert [path.name for path in keys_path().parent.iterdir()] == ["keys.json"]


WITH_KEYS = (
    "http://me:markedpw99@host/v1",
    "http://markedpw99@host/v1",
    "https://host/v1?x=1&api_key=markedpw99",
)


@pytest.mark.parametrize("url", WITH_KEYS)
def test_a_url_with_a_key_in_it_is_refused_and_not_repeated(url: str) -> None:
    check_url("http://127.0.0.1:8080/v1?monkey=1", "LEMA_TEACHER_KEY")
    for work in (
        lambda: check_url(url, "LEMA_TEACHER_KEY"),
        lambda: open_teacher("openai/x", url=url),
        lambda: open_student("x", url=url),
    ):
        with pytest.raises(InputError, match="holds a password or a key") as caught:
            work()
        assert "markedpw99" not in f"{caught.value} {caught.value.hint}"
    values = {"name": "x", "questions": {"train": "a", "test": ["b"]}, "student": {"model": "m"}}
    with pytest.raises(RecipeError, match="holds a password or a key") as refused:
        check_recipe({**values, "teacher": {"model": "openai/x", "url": url}}, "my.yaml")
    assert "markedpw99" not in str(refused.value)
    assert "LEMA_TEACHER_KEY" in str(refused.value)


def test_a_key_in_a_recipe_is_an_unknown_key_and_not_repeated() -> None:
    values = {"name": "x", "questions": {"train": "a", "test": ["b"]}, "student": {"model": "m"}}
    with pytest.raises(RecipeError, match=r"teacher\.api_key: unknown key") as caught:
        check_recipe({**values, "teacher": {"api_key": KEY}}, "my.yaml")
    assert KEY not in str(caught.value)
