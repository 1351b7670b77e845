"""A student behind an HTTP endpoint, against a small real server that misbehaves as real ones do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lema_local.errors import BackendError
from lema_local.students import open_student
from lema_local.students.base import (
    Completion,
    DecodeSettings,
    EngineOptions,
    Message,
    Refusal,
    SampleRequest,
)

Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


def completion(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "choices": [{"text": text, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7},
    }


@contextmanager
def serve(answer: Answer) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """Serve `answer(path, body) -> (status, object)`; lend the base URL and the list of what was asked."""
    asked: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200, {"data": []})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            self._reply(*answer(self.path, body))

        def _reply(self, status: int, content: Any) -> None:
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def requests(count: int) -> list[SampleRequest]:
    return [SampleRequest(f"q{number}", 0, f"prompt {number}", seed=100 + number) for number in range(count)]


def test_text_prompts_go_to_completions_with_their_seeds() -> None:
    with serve(lambda path, body: (200, completion(f"to {body['prompt']} STOP and on"))) as (url, asked):
        student = open_student("tiny", url=url, prompt_style="completion", options=EngineOptions(slots=3))
        settings = DecodeSettings(temperature=0.5, top_k=7, max_tokens=9, stop=(" STOP",))
        results = dict(student.complete_many(requests(8), settings))
        student.close()
    assert results[requests(8)[3]] == Completion("to prompt 3", "stop", 5, 7)
    assert len(results) == 8
    assert {path for path, _ in asked} == {"/v1/completions"}
    assert sorted(body["seed"] for _, body in asked) == list(range(100, 108))
    assert {key: asked[0][1][key] for key in ("model", "temperature", "top_k", "max_tokens", "stop")} == {
        "model": "tiny", "temperature": 0.5, "top_k": 7, "max_tokens": 9, "stop": [" STOP"],
    }  # fmt: skip


def test_messages_go_to_chat_completions() -> None:
    reply = {"choices": [{"message": {"content": "4"}, "finish_reason": "length"}]}
    with serve(lambda path, body: (200, reply)) as (url, asked):
        student = open_student("tiny", url=url)
        assert student.prompt_style == "chat"
        prompt = (Message(role="user", content="2 + 2?"),)
        [(_, result)] = student.complete_many([SampleRequest("q", 0, prompt, 1)], DecodeSettings())
        student.close()
    assert result == Completion("4", "length", None, None)
    assert asked[0][0] == "/v1/chat/completions"
    assert asked[0][1]["messages"] == [{"role": "user", "content": "2 + 2?"}]


def test_exact_keeps_the_order_of_the_requests() -> None:
    release = threading.Event()

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body["prompt"] == "prompt 0":
            release.wait(5)
        else:
            release.set()
        return 200, completion(body["prompt"])

    with serve(answer) as (url, _):
        student = open_student("tiny", url=url, prompt_style="completion", options=EngineOptions(slots=2))
        order = [
            one.question_id for one, _ in student.complete_many(requests(4), DecodeSettings(), is_exact=True)
        ]
        student.close()
    assert order == ["q0", "q1", "q2", "q3"]


def test_a_passing_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    failures = [(503, {"error": "loading"}), (429, {"error": "slow down"})]

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return failures.pop() if failures else (200, completion("ok"))

    with serve(answer) as (url, asked):
        student = open_student("tiny", url=url, prompt_style="completion")
        [(_, result)] = student.complete_many(requests(1), DecodeSettings())
        student.close()
    assert isinstance(result, Completion)
    assert len(asked) == 3


def test_a_server_that_knows_no_top_k_is_asked_without_it() -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "top_k" in body:
            return 400, {"error": {"message": "Unrecognized request argument supplied: top_k"}}
        return 200, completion("ok")

    with serve(answer) as (url, asked):
        student = open_student("tiny", url=url, prompt_style="completion", options=EngineOptions(slots=1))
        assert len(list(student.complete_many(requests(3), DecodeSettings()))) == 3
        assert student.describe()["has_extras"] is False
        student.close()
    assert ["top_k" in body for _, body in asked] == [True, False, False, False]


def test_a_prompt_too_long_for_the_server_is_refused_and_the_others_go_on() -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body["prompt"] == "prompt 1":
            return 400, {"error": {"message": "the request exceeds the available context size"}}
        return 200, completion("ok")

    with serve(answer) as (url, _):
        student = open_student("tiny", url=url, prompt_style="completion")
        results = [
            result for _, result in student.complete_many(requests(3), DecodeSettings(), is_exact=True)
        ]
        student.close()
    assert [type(result) for result in results] == [Completion, Refusal, Completion]


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (401, {"error": "no key"}, "answers 401 for model 'tiny'"),
        (404, b"<html>not here</html>", "answers 404"),
        (200, b"<html>hello</html>", "answers no completion"),
        (200, {"choices": []}, "answers no completion"),
        (200, {"choices": [{"text": 5}]}, "answers no text"),
    ],
)
def test_nonsense_is_one_clear_message(status: int, content: Any, message: str) -> None:
    with serve(lambda path, body: (status, content)) as (url, _):
        student = open_student("tiny", url=url, prompt_style="completion")
        with pytest.raises(BackendError, match=message) as caught:
            list(student.complete_many(requests(2), DecodeSettings()))
        student.close()
    assert caught.value.exit_code == 1


def test_an_endpoint_that_is_down_is_said_at_once() -> None:
    with pytest.raises(BackendError, match=r"nothing answers at http://127\.0\.0\.1:9/v1") as caught:
        open_student("tiny", url="http://127.0.0.1:9/v1")
    assert caught.value.exit_code == 1
    assert caught.value.hint


def same_question(count: int) -> list[SampleRequest]:
    return [SampleRequest("q", index, "prompt", seed=50 * index + 10) for index in range(count)]


def test_a_question_s_paths_are_asked_for_together_where_the_server_has_n() -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        choices = [{"index": place, "text": f"path {place}"} for place in reversed(range(body["n"]))]
        return 200, {"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 21}}

    with serve(answer) as (url, asked):
        student = open_student("tiny", url=url, prompt_style="completion")
        results = list(student.complete_many(same_question(3), DecodeSettings()))
        student.close()
    assert len(asked) == 1
    assert (asked[0][1]["n"], asked[0][1]["seed"]) == (3, 10)
    # Path j has the request's seed plus j; how the 21 tokens divide among the paths is not known.
    assert [(request.sample_index, request.seed) for request, _ in results] == [(0, 10), (1, 11), (2, 12)]
    assert [result for _, result in results] == [
        Completion(f"path {place}", "unknown", 5, None) for place in range(3)
    ]


def test_a_server_that_gives_one_choice_is_asked_for_each_path_and_nothing_is_lost() -> None:
    with serve(lambda path, body: (200, completion(f"seed {body['seed']}"))) as (url, asked):
        student = open_student("tiny", url=url, prompt_style="completion", options=EngineOptions(slots=1))
        results = list(student.complete_many(same_question(3) + requests(2), DecodeSettings()))
        student.close()
    assert [result.text for _, result in results if isinstance(result, Completion)] == [
        "seed 10", "seed 60", "seed 110", "seed 100", "seed 101",
    ]  # fmt: skip
    assert [body.get("n") for _, body in asked] == [3, None, None, None, None]


def test_a_server_that_refuses_n_is_asked_for_each_path() -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"error": "n must be 1"}) if "n" in body else (200, completion(f"seed {body['seed']}"))

    with serve(answer) as (url, asked):
        student = open_student("tiny", url=url, prompt_style="completion")
        results = dict(student.complete_many(same_question(4), DecodeSettings()))
        student.close()
    assert [request.seed for request in results] == [10, 60, 110, 160]
    assert len(asked) == 5


def test_greedy_paths_are_never_asked_for_together() -> None:
    with serve(lambda path, body: (200, completion("same"))) as (url, asked):
        student = open_student("tiny", url=url, prompt_style="completion")
        assert len(list(student.complete_many(same_question(2), DecodeSettings(temperature=0)))) == 2
        student.close()
    assert all("n" not in body for _, body in asked)
