"""`lema batch`: files of requests to a real server and back, every line accounted for, nothing paid twice."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_batches import BatchWeather, FakeBatches
from sums import write_inputs

from lema_local.cli import lema
from lema_local.jsonl import read_records
from lema_local.records import Correction

PRICES = ("--price-in", "1", "--price-out", "10")
KEY = "markedkey0123456789abcdefghijklmn"

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(lema, ["--quiet", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def inputs(folder: Path, server: FakeBatches) -> list[str]:
    return [
        *(str(folder / "paths.jsonl"), "--questions", str(folder / "questions.jsonl"), "--json"),
        *("--teacher", "openai/fake", "--teacher-url", server.url),
    ]


def export(folder: Path, server: FakeBatches, *more: str, out: str = "requests.jsonl") -> dict[str, Any]:
    return told(run("batch", "export", *inputs(folder, server), *PRICES, "--out", folder / out, *more))


def correct(folder: Path, server: FakeBatches, *more: str, out: str = "out.jsonl") -> dict[str, Any]:
    return told(run("correct", *inputs(folder, server), *PRICES, "--out", folder / out, *more))


def spent() -> dict[str, Any]:
    lines = json.loads(run("journal", "spent", "--json").stdout)
    names = ("calls", "answered", "free", "unknown", "in_flight", "spent_usd")
    return {name: sum(line[name] for line in lines) for name in names}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_brings_what_asking_online_would_bring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(folder, 20)
    with FakeBatches(BatchWeather(looks=2), usage=[100, 50]) as server:
        exported = export(folder, server)
        assert (exported["mistakes"], exported["from_journal"]) == (20, 0)
        assert [one["items"] for one in exported["files"]] == [20]
        assert server.calls == ["GET /v1/models"], "nothing is asked"
        requests = folder / "requests.jsonl"
        assert "batch_1  validating" in run("batch", "submit", requests).stdout
        assert "20 open" in run("batch", "status").stdout
        assert told(run("batch", "fetch", "--json")) | {"file": "", "batches": []} == {
            "file": "",
            "lines": 20,
            "answered": 20,
            "failed": 0,
            "duplicate": 0,
            "unknown": 0,
            "unreadable": 0,
            "errors": {},
            "cost_usd": pytest.approx(20 * 0.0006),
            "batches": [],
            "open": 0,
        }
        assert run("batch", "status").stdout == "", "it has ended"
        assert spent()["spent_usd"] == pytest.approx(20 * 0.0006)
        batched = correct(folder, server)
        assert (batched["calls"], batched["from_journal"], server.requests) == (0, 20, 0)
        monkeypatch.setenv("LEMA_HOME", str(folder / "another"))
        online = correct(folder, server, out="online.jsonl")
        assert (online["calls"], online["accepted"]) == (20, batched["accepted"])
    one, other = (read_records(folder / name, Correction) for name in ("out.jsonl", "online.jsonl"))
    assert one == other


def test_several_teachers_get_a_file_each_and_what_needs_none_is_left_out(folder: Path) -> None:
    write_inputs(folder, 30)
    with FakeBatches(usage=[100, 50]) as server:
        also = ("--teacher", "openai/other=2", "--teacher-url", server.url, "--teacher", "reference")
        exported = export(folder, server, *also)
        files = [folder / "requests-1.jsonl", folder / "requests-2.jsonl"]
        assert [one["file"] for one in exported["files"]] == [str(path) for path in files]
        assert {lines_of(path)[0]["body"]["model"] for path in files} == {"fake", "other"}
        run("batch", "submit", *files)
        run("batch", "fetch")
        done = correct(folder, server, *also)
        assert server.requests == 0
    batched = sum(one["items"] for one in exported["files"])
    assert done["from_journal"] == batched < 30
    assert done["by_teacher"]["reference"]["accepted"] == done["calls"] == 30 - batched


def test_rationales_come_by_batches_too(folder: Path) -> None:
    write_inputs(folder, 10)
    with FakeBatches(usage=[100, 50]) as server:
        words = [str(folder / "questions.jsonl"), "--teacher", "openai/fake", "--teacher-url", server.url]
        words += ["--count", "2", "--json", *PRICES]
        exported = told(run("batch", "export-augment", *words, "--out", folder / "requests.jsonl"))
        assert (exported["rationales"], exported["files"][0]["items"]) == (20, 20)
        run("batch", "submit", folder / "requests.jsonl")
        run("batch", "fetch")
        done = told(run("augment", *words, "--out", folder / "rationales.jsonl"))
        assert (done["total"], done["calls"], done["from_journal"], server.requests) == (20, 0, 20, 0)
        again = told(run("batch", "export-augment", *words, "--out", folder / "again.jsonl"))
    assert (again["from_journal"], again["files"]) == (20, [])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_every_item_is_answered_failed_or_missed_and_the_rest_is_asked_online(folder: Path) -> None:
    write_inputs(folder, 60)
    weather = BatchWeather(failing=0.2, left_out=0.2, repeated=0.3)
    with FakeBatches(weather, usage=[100, 50]) as server:
        worst = export(folder, server)["files"][0]["open_usd"]
        requests = folder / "requests.jsonl"
        run("batch", "submit", requests)
        assert spent() == {
            "calls": 60,
            "answered": 0,
            "free": 0,
            "unknown": 0,
            "in_flight": 60,
            "spent_usd": pytest.approx(worst),
        }
        fetched = run("batch", "fetch", "--json")
        output, errors = (json.loads(line) for line in fetched.stdout.splitlines())
        assert output["lines"] == output["answered"] + output["duplicate"]
        assert output["duplicate"] > 0
        assert errors["lines"] == errors["failed"] > 0
        assert errors["errors"] == {"429: try later": errors["failed"]}
        missed = 60 - output["answered"] - errors["failed"]
        assert missed > 0
        booked = spent()
        assert (booked["answered"], booked["free"], booked["unknown"]) == (
            *(output["answered"], errors["failed"]),
            missed,
        )
        assert booked["in_flight"] == 0
        assert booked["spent_usd"] == pytest.approx(
            output["answered"] * 0.0006 + missed * worst / 60, rel=0.05
        )
        again = export(folder, server, out="again.jsonl")
        assert (again["from_journal"], again["files"][0]["items"]) == (
            output["answered"],
            60 - output["answered"],
        )
        done = correct(folder, server)
        assert (done["from_journal"], done["calls"]) == (output["answered"], 60 - output["answered"])
        assert done["accepted"] + done["rejected"] == 60


def test_replies_in_parts_in_any_order_torn_or_of_others_are_each_accounted_for(folder: Path) -> None:
    write_inputs(folder, 10)
    with FakeBatches(usage=[100, 50]) as server:
        export(folder, server)
        run("batch", "submit", folder / "requests.jsonl")
        run("batch", "fetch")
        lines = (folder / "requests.output.jsonl").read_text().splitlines()
        os.environ["LEMA_HOME"] = str(folder / "another")  # restored by the fixture of every test
        export(folder, server, out="other.jsonl")
        known = {json.loads(line)["custom_id"].partition("-")[2]: json.loads(line) for line in lines}
        mine = []
        for request in lines_of(folder / "other.jsonl"):
            mine.append({**known[request["custom_id"].partition("-")[2]], "custom_id": request["custom_id"]})
        no_choices, no_usage, *good = mine
        no_choices["response"] = {"status_code": 200, "body": {"choices": []}}
        del no_usage["response"]["body"]["usage"]
        random.Random(1).shuffle(good)
        parts = [json.dumps(line) for line in (*good[:5], good[0], no_choices, no_usage)]
        stranger = json.dumps({**good[0], "custom_id": "elsewhere-1"})
        odd = ["{", '"x"', "[]", '{"custom_id": 7}', stranger, *lines[:1], good_line(good[5])[:40]]
        (folder / "part.jsonl").write_text("\n".join([*parts, *odd]))
        first = told(run("batch", "import", folder / "part.jsonl", "--json"))
        assert (
            first["lines"]
            == 15
            == sum(first[word] for word in ("answered", "failed", "duplicate", "unknown", "unreadable"))
        )
        counts = {word: first[word] for word in ("answered", "failed", "duplicate", "unknown", "unreadable")}
        assert counts == {"answered": 6, "failed": 1, "duplicate": 1, "unknown": 2, "unreadable": 5}
        assert first["open"] == 3
        whole = "".join(good_line(line) + "\n" for line in (*good, no_usage, no_choices))
        (folder / "whole.jsonl").write_text(whole)
        second = told(run("batch", "import", folder / "whole.jsonl", "--json"))
        assert (second["answered"], second["duplicate"], second["open"]) == (3, 7, 0)
        assert run("batch", "import", folder / "nowhere.jsonl").exit_code == 2
        booked = spent()
        assert (booked["answered"], booked["unknown"], booked["in_flight"]) == (9, 1, 0)
        assert booked["spent_usd"] > 8 * 0.0006 + 2 * 0.01, (
            "without a count of tokens the worst case is booked"
        )
        assert correct(folder, server)["calls"] == 1


def good_line(line: dict[str, Any]) -> str:
    return json.dumps(line)


@pytest.mark.parametrize(
    ("limit", "value"), [("--max-requests", "7"), ("--max-mb", "0.02"), ("--max-prompt-tokens", "9500")]
)
def test_files_are_split_by_the_providers_limits(folder: Path, limit: str, value: str) -> None:
    write_inputs(folder, 20)
    with FakeBatches() as server:
        exported = export(folder, server, limit, value)
        files = [Path(one["file"]) for one in exported["files"]]
        assert [path.name for path in files] == [f"requests-{n}.jsonl" for n in range(1, len(files) + 1)]
        assert 3 <= len(files) <= 5
        sizes = [one["items"] for one in exported["files"]]
        assert sum(sizes) == 20
        if limit == "--max-requests":
            assert sizes == [7, 7, 6]
        if limit == "--max-mb":
            assert all(path.stat().st_size <= 20_000 for path in files)
        ids = [line["custom_id"] for path in files for line in lines_of(path)]
        assert len(set(ids)) == 20
        assert (
            "more than a file may hold"
            in run(
                *(
                    "batch",
                    "export",
                    *inputs(folder, server),
                    "--out",
                    folder / "x.jsonl",
                    "--max-mb",
                    "0.001",
                )
            ).stderr
        )
        run("batch", "submit", *files)
        accounts = [json.loads(line) for line in run("batch", "fetch", "--json").stdout.splitlines()]
        assert [one["answered"] for one in accounts] == sizes
        assert correct(folder, server)["calls"] == 0


def test_the_same_mistake_twice_is_one_request(folder: Path) -> None:
    write_inputs(folder, 3)
    paths = lines_of(folder / "paths.jsonl")
    twice = [*paths, {**paths[0], "sample_index": 1}]
    (folder / "paths.jsonl").write_text("".join(json.dumps(path) + "\n" for path in twice))
    with FakeBatches() as server:
        exported = export(folder, server)
        assert (exported["mistakes"], exported["files"][0]["items"]) == (4, 3)
        run("batch", "submit", folder / "requests.jsonl")
        run("batch", "fetch")
        assert correct(folder, server)["from_journal"] == 4


def test_the_cap_holds_over_files_and_what_is_out_is_not_asked_twice(folder: Path) -> None:
    write_inputs(folder, 12)
    with FakeBatches(BatchWeather(looks=99), usage=[100, 50]) as server:
        exported = export(folder, server, "--max-requests", "6")
        first, second = (Path(one["file"]) for one in exported["files"])
        cap = str(1.5 * exported["files"][0]["open_usd"])
        stopped = run("batch", "submit", first, second, "--max-usd", cap)
        assert stopped.exit_code == 3
        assert "is used up" in stopped.stderr
        again = shlex.split(stopped.stderr.partition("Try: ")[2])
        assert again[-5:-2] == ["submit", str(first), str(second)]
        assert float(again[-1]) == pytest.approx(2 * exported["files"][0]["open_usd"], abs=0.02)
        assert len(server.batches) == 1
        assert run("batch", "submit", first, second, "--max-usd", cap).exit_code == 3
        assert len(server.batches) == 1, "a file is sent once"
        done = correct(folder, server)
        assert (done["failed"], done["calls"]) == (6, 6)
        assert (
            sum(n for reason, n in done["reasons"].items() if "lema batch fetch brings its reply" in reason)
            == 6
        )
        again = export(folder, server, out="again.jsonl")
        assert (again["in_batch"], again["from_journal"], again["files"]) == (6, 6, [])
        server.batch.looks = 1
        run("batch", "fetch")
        assert correct(folder, server)["calls"] == 0
        assert run("batch", "submit", first, second, "--max-usd", "9").exit_code == 0
        assert len(server.batches) == 2


def test_a_submission_that_was_cut_off_is_found_again_and_not_repeated(folder: Path) -> None:
    write_inputs(folder, 4)
    with FakeBatches(BatchWeather(breaks_on_start=1)) as server:
        export(folder, server)
        requests = folder / "requests.jsonl"
        assert run("batch", "submit", requests).exit_code == 1
        assert spent()["in_flight"] == 4, "it may have been started"
        assert correct(folder, server)["calls"] == 0
        again = run("batch", "submit", requests)
        assert (again.exit_code, len(server.batches)) == (0, 1), again.output
        assert told(run("batch", "fetch", "--json"))["answered"] == 4


def test_a_batch_that_is_refused_can_be_sent_again(folder: Path) -> None:
    write_inputs(folder, 4)
    with FakeBatches(BatchWeather(refuses_start="no batches for you")) as server:
        export(folder, server)
        refused = run("batch", "submit", folder / "requests.jsonl")
        assert refused.exit_code == 1
        assert "no batches for you" in refused.stderr
        assert spent()["calls"] == 0
        server.batch.refuses_start = None
        assert run("batch", "submit", folder / "requests.jsonl").exit_code == 0


def test_what_an_expired_batch_did_not_get_to_is_free_and_asked_again(folder: Path) -> None:
    write_inputs(folder, 30)
    with FakeBatches(BatchWeather(end="expired", left_out=0.5), usage=[100, 50]) as server:
        export(folder, server)
        run("batch", "submit", folder / "requests.jsonl")
        answered = told(run("batch", "fetch", "--json"))["answered"]
        booked = spent()
        assert (booked["answered"], booked["free"], booked["unknown"]) == (answered, 30 - answered, 0)
        assert booked["spent_usd"] == pytest.approx(answered * 0.0006)
        assert correct(folder, server)["calls"] == 30 - answered


def test_wrong_input_is_one_message_with_exit_2(folder: Path) -> None:
    write_inputs(folder, 2)
    with FakeBatches() as server:
        export(folder, server)
        requests = folder / "requests.jsonl"
        words = ["batch", "export", *inputs(folder, server), "--out", requests]
        exists = run(*words)
        assert (exists.exit_code, "exists" in exists.stderr) == (2, True)
        words[words.index("--teacher") + 1] = "reference"
        assert run(*words).exit_code == 2
        stranger = run("batch", "submit", folder / "paths.jsonl")
        assert (stranger.exit_code, "was not written by lema batch export" in stranger.stderr) == (2, True)
        requests.write_text(requests.read_text().replace("What is", "How much is"))
        changed = run("batch", "submit", requests)
        assert (changed.exit_code, "was changed" in changed.stderr) == (2, True)
        assert not server.batches


EXPORT_AND_COUNT = """
    import json, os, sys
    seen = []
    def note(event, args):
        if event == "socket.connect" and isinstance(args[1], tuple) or event == "socket.getaddrinfo":
            seen.append(str(args))
    sys.addaudithook(note)
    from lema_local.cli import lema
    lema.main(sys.argv[1:], standalone_mode=False)
    print(json.dumps(seen))
"""


def test_requests_for_a_provider_are_written_without_a_key_or_a_connection_at_batch_prices(
    folder: Path,
) -> None:
    write_inputs(folder, 3)
    words = [
        *("batch", "export", str(folder / "paths.jsonl"), "--questions", str(folder / "questions.jsonl")),
        *("--teacher", "gpt-4o", "--json", "--offline"),
    ]
    kept = {"LITELLM_LOCAL_MODEL_COST_MAP", "OPENAI_API_KEY"}
    environment = {name: value for name, value in os.environ.items() if name not in kept}
    command = [sys.executable, "-c", textwrap.dedent(EXPORT_AND_COUNT), *words]
    told_usd = []
    for prices in ((), ("--price-in", "1.25", "--price-out", "5")):
        out = folder / f"requests{len(prices)}.jsonl"
        done = subprocess.run(
            [*command, "--out", str(out), *prices],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        exported, seen = (json.loads(line) for line in done.stdout.splitlines())
        assert seen == []
        told_usd.append(exported["files"][0]["open_usd"])
    # gpt-4o costs $2.50 and $10 a million tokens, and half of that in a batch.
    assert told_usd[0] == pytest.approx(told_usd[1])
    body = lines_of(folder / "requests0.jsonl")[0]["body"]
    assert body["model"] == "gpt-4o"
    assert set(body) == {"model", "messages", "temperature", "max_tokens"}


def test_no_key_is_left_behind(folder: Path, lema_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(folder, 3)
    monkeypatch.setenv("LEMA_TEACHER_KEY", KEY)
    with FakeBatches(BatchWeather(refuses_start=f"wrong key {KEY}")) as server:
        export(folder, server)
        refused = run("batch", "submit", folder / "requests.jsonl")
        assert "wrong key ***" in refused.stderr
        server.batch.refuses_start = None
        shown = run("batch", "submit", folder / "requests.jsonl").output + run("batch", "fetch").output
        assert {headers.get("authorization") for headers in server.headers[1:]} == {f"Bearer {KEY}"}
    assert KEY not in shown + refused.output
    files = [path for place in (folder, lema_home) for path in place.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
