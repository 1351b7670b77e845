from __future__ import annotations

import asyncio
import email.utils
import time
from typing import Any

import pytest
from fake_teacher import FakeTeacher, closed_port

from lema_local.errors import BackendError, BackendUnavailable, InputError
from lema_local.students.base import Message
from lema_local.teachers import open_teacher
from lema_local.teachers.base import CallFailed, RawReply, RequestRefused, TeacherRequest
from lema_local.teachers.endpoints import is_local, public_part
from lema_local.teachers.litellm_teacher import (
    LiteLLMTeacher,
    import_litellm,
    read_retry_after,
)
from lema_local.teachers.prices import Price, most_prompt_tokens
from lema_local.teachers.reasoning import split_reasoning
from lema_local.teachers.secrets import mask_secrets

KEY = "sk-MARKED0123456789abcdefghijklmn"
REQUEST = TeacherRequest((Message(role="user", content="What is 17 + 4?"),), seed=7, stop=("\nQuestion:",))

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    import_litellm()


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "LEMA_TEACHER_KEY",
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


def ask(server: FakeTeacher, request: TeacherRequest = REQUEST, **options: Any) -> RawReply:
    async def work() -> RawReply:
        teacher = open_teacher("openai/fake", url=server.url, **options)
        try:
            return await teacher.reply(request)
        finally:
            await teacher.close()

    return asyncio.run(work())


def test_a_reply_comes_with_its_account_and_the_whole_body() -> None:
    with FakeTeacher() as server:
        reply = ask(server)
        (sent,) = server.bodies
    assert "17 + 4" in reply.text
    assert (reply.model, reply.finish_reason, reply.prompt_tokens) == ("fake", "stop", 3)
    assert reply.body["choices"][0]["message"]["content"] == reply.text
    assert reply.body["usage"]["prompt_tokens"] == 3
    assert sent["messages"] == [{"role": "user", "content": "What is 17 + 4?"}]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["seed"], sent["stop"]) == (
        *("fake", 1024, 0.0, 7),
        ["\nQuestion:"],
    )


def test_litellms_log_is_off_for_our_calls_and_for_no_others() -> None:
    """Also that the version in use still has the switch: without it calls take a tenth longer."""
    from litellm._internal_context import is_internal_call

    seen: list[bool] = []

    class Teacher(LiteLLMTeacher):
        def _read(self, response: Any, request: TeacherRequest, latency_s: float) -> RawReply:
            seen.append(is_internal_call.get())
            return super()._read(response, request, latency_s)

    async def work() -> None:
        await asyncio.create_task(_ask_and_close(Teacher("openai/fake", url=server.url)))
        seen.append(is_internal_call.get())

    with FakeTeacher() as server:
        asyncio.run(work())
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("fault", "rate_limit", "may_have_cost", "retry_after"),
    [
        ("429", True, False, None),
        ("429_retry_after", True, False, 75.0),
        ("500", False, False, None),
        ("502", False, False, None),
        ("503", False, False, None),
        ("drop", False, True, None),
        ("malformed", False, True, None),
    ],
)
def test_what_may_be_tried_again(
    fault: str, rate_limit: bool, may_have_cost: bool, retry_after: float | None
) -> None:
    with (
        FakeTeacher(fault_rate=1.0, faults=[fault], retry_after="75") as server,
        pytest.raises(CallFailed) as caught,
    ):
        ask(server)
    error = caught.value
    assert (error.is_rate_limit, error.may_have_cost, error.retry_after_s) == (
        rate_limit,
        may_have_cost,
        retry_after,
    )
    assert not error.is_unreachable
    assert server.requests == 1, "one call is one request: the SDK's own retries are off"


@pytest.mark.parametrize(
    ("fault", "finish"),
    [("empty", "stop"), ("refusal", "content_filter"), ("length", "length"), ("control", "stop")],
)
def test_odd_replies_are_replies(fault: str, finish: str) -> None:
    with FakeTeacher(fault_rate=1.0, faults=[fault]) as server:
        reply = ask(server)
    assert reply.finish_reason == finish
    assert reply.text == "" if fault in {"empty", "refusal"} else reply.text
    reply.text.encode()


@pytest.mark.parametrize("body", ["{}", "[]", "null", '{"choices": []}', '{"choices": [{}]}', '"x"', ""])
def test_json_of_a_wrong_shape_is_a_failed_call(body: str) -> None:
    with FakeTeacher(status=200, error_body=body) as server, pytest.raises(CallFailed) as caught:
        ask(server)
    assert caught.value.may_have_cost


@pytest.mark.parametrize(
    ("status", "kind"), [(400, RequestRefused), (401, BackendError), (403, BackendError), (404, BackendError)]
)
def test_a_refusal_comes_with_the_providers_words_and_without_the_key(
    status: int, kind: type[BackendError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMA_TEACHER_KEY", KEY)
    body = f'{{"error": {{"message": "Key {KEY} may not use model fake", "type": "x"}}}}'
    with FakeTeacher(status=status, error_body=body) as server, pytest.raises(kind) as caught:
        ask(server)
    assert not isinstance(caught.value, CallFailed)
    assert "Key *** may not use model fake" in str(caught.value)
    assert KEY not in repr(caught.value) + repr(caught.value.__cause__)
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"


def test_a_context_overflow_concerns_that_request_alone() -> None:
    body = '{"error": {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}}'
    with FakeTeacher(status=400, error_body=body) as server, pytest.raises(RequestRefused) as caught:
        ask(server)
    assert caught.value.is_only_this


def test_an_account_without_credit_is_not_tried_again() -> None:
    body = '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    with FakeTeacher(status=429, error_body=body) as server, pytest.raises(BackendError) as caught:
        ask(server)
    assert not isinstance(caught.value, CallFailed)


def test_a_providers_key_is_not_sent_to_a_local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeTeacher() as server:
        ask(server)
    assert server.headers[-1]["authorization"] == "Bearer none"


def test_an_endpoint_that_is_not_there_is_said_to_be_unreachable() -> None:
    with closed_port() as url, pytest.raises(BackendUnavailable, match="cannot be reached") as caught:
        open_teacher("openai/fake", url=url)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_an_endpoint_that_went_away_is_known_never_to_have_seen_the_call() -> None:
    with FakeTeacher() as server:
        teacher = open_teacher("openai/fake", url=server.url)
    with pytest.raises(CallFailed) as caught:
        asyncio.run(teacher.reply(REQUEST))
    assert caught.value.is_unreachable
    assert not caught.value.may_have_cost


def test_the_price_follows_the_model_asked_not_the_name_in_the_reply() -> None:
    with FakeTeacher(fault_rate=1.0, faults=["wrong_model"], max_faults_each=9, usage=[1000, 100]) as server:
        local = ask(server)
        priced = ask(server, price_in=1.0, price_out=10.0)
    assert (local.model, local.cost_usd) == ("gpt-4", 0.0)
    assert priced.cost_usd == pytest.approx(1000 * 1e-6 + 100 * 1e-5)


def test_where_no_tokens_were_counted_the_worst_case_is_booked() -> None:
    with FakeTeacher(usage=[0, 0]) as server:
        reply = ask(server, price_in=1.0, price_out=10.0)
    assert reply.cost_usd == Price.per_million(1.0, 10.0).worst_usd(REQUEST)


def test_known_models_have_litellms_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    teacher = open_teacher("gpt-4o")
    worst = teacher.worst_case_usd(REQUEST)
    assert worst == pytest.approx(most_prompt_tokens(REQUEST) * 2.5e-6 + 1024 * 1e-5)
    assert teacher.identity == ""


def test_a_local_server_that_calls_itself_gpt_4o_leaves_the_price_of_gpt_4o_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeTeacher() as server:
        local = [
            open_teacher(name, url=server.url) for name in ("openai/gpt-4o", "openai/my-own", "gpt-4o-mini")
        ]
    assert [teacher.worst_case_usd(REQUEST) for teacher in local] == [0.0, 0.0, 0.0]
    assert open_teacher("gpt-4o").worst_case_usd(REQUEST) == Price(2.5e-6, 1e-5).worst_usd(REQUEST)
    assert open_teacher("gpt-4o-mini").worst_case_usd(REQUEST) == Price(1.5e-7, 6e-7).worst_usd(REQUEST)
    with pytest.raises(BackendUnavailable, match="price of openai/another is not known"):
        open_teacher("openai/another").worst_case_usd(REQUEST)


def test_an_unknown_price_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    teacher = open_teacher("openai/no-such-model")
    with pytest.raises(BackendUnavailable, match="price of openai/no-such-model is not known") as caught:
        teacher.worst_case_usd(REQUEST)
    assert caught.value.hint
    assert "--price-in" in caught.value.hint


def test_a_price_may_be_a_fraction_and_needs_both_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    teacher = open_teacher("openai/no-such-model", price_in=0.15, price_out=0.6)
    assert teacher.worst_case_usd(REQUEST) == Price(0.15e-6, 0.6e-6).worst_usd(REQUEST)
    with pytest.raises(InputError, match="both parts"):
        open_teacher("gpt-4o", price_in=0.15)


@pytest.mark.parametrize(
    ("name", "variable"), [("gpt-4o", "OPENAI_API_KEY"), ("anthropic/claude-opus-4-1", "ANTHROPIC_API_KEY")]
)
def test_a_missing_key_is_said_before_anything_is_sent(name: str, variable: str) -> None:
    with pytest.raises(BackendUnavailable, match=f"needs a key, and {variable} is not set") as caught:
        open_teacher(name)
    assert caught.value.exit_code == 2


def test_a_name_without_a_provider_is_explained(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendUnavailable, match="no provider is known for the teacher 'nosuch'"):
        open_teacher("nosuch")
    assert capfd.readouterr() == ("", ""), "LiteLLM keeps quiet"


def test_with_a_url_a_bare_name_is_enough() -> None:
    with FakeTeacher() as server:
        teacher = open_teacher("my-model", url=server.url)
        assert isinstance(teacher, LiteLLMTeacher)
        assert asyncio.run(_ask_and_close(teacher)).model == "my-model"
    assert teacher.name == "my-model"


async def _ask_and_close(teacher: LiteLLMTeacher) -> RawReply:
    try:
        return await teacher.reply(REQUEST)
    finally:
        await teacher.close()


def test_the_identity_is_the_endpoint_and_what_it_serves() -> None:
    with FakeTeacher() as server:
        first = open_teacher("openai/fake", url=server.url).identity
        server.weather.model = "another"
        second = open_teacher("openai/fake", url=server.url).identity
    assert server.url in first
    assert "fake-teacher" in first
    assert "another" in second


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8080", "http//x"])
def test_a_url_has_to_be_one(url: str) -> None:
    with pytest.raises(InputError, match="no URL"):
        open_teacher("openai/x", url=url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:80/v1", True),
        ("http://192.168.1.7:8000/v1", True),
        ("http://nas.local/v1", True),
        ("http://gpubox:8000/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://8.8.8.8/v1", False),
    ],
)
def test_what_is_local(url: str, expected: bool) -> None:
    assert is_local(url) is expected


def test_what_is_shown_of_a_url_holds_no_password() -> None:
    assert public_part("https://me:secret@host.example:444/v1/?key=1") == "https://host.example:444/v1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Incorrect API key provided: sk-proj-abcdefghijkl1234.", "Incorrect API key provided: ***."),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer ***"),
        ("GET /v1?key=AIzaSyABCDEFGH&x=1", "GET /v1?key=***&x=1"),
        ("http://me:pass@host/v1", "http://***@host/v1"),
        ("the skeleton of step-by-step reasoning", "the skeleton of step-by-step reasoning"),
        (f"{KEY[:9]} and {KEY}", f"{KEY[:9]} and ***"),
    ],
)
def test_keys_are_masked(text: str, expected: str) -> None:
    assert mask_secrets(text) == expected


def test_values_of_variables_named_like_keys_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PROVIDER_API_KEY", "plainwordkey")
    assert mask_secrets("bad key plainwordkey!") == "bad key ***!"


def test_a_thinking_block_is_kept_apart() -> None:
    assert split_reasoning("<think>\nhm\n</think>\n\nStep 1.") == ("Step 1.", "hm")
    assert split_reasoning("<think>never ends") == ("", "never ends")
    assert split_reasoning("Step 1. <think>") == ("Step 1. <think>", None)
    assert split_reasoning("hm, <think> and </think>?\n</think>\nStep 1.") == (
        "Step 1.",
        "hm, <think> and </think>?",
    )


def test_retry_after_is_read_as_seconds_milliseconds_or_a_date() -> None:
    assert read_retry_after({"retry-after": "120"}) == 120.0
    assert read_retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    assert read_retry_after({"retry-after": "nonsense"}) is None
    assert read_retry_after({}) is None
    in_90_s = email.utils.formatdate(time.time() + 90, usegmt=True)
    assert read_retry_after({"retry-after": in_90_s}) == pytest.approx(90.0, abs=2.0)


def test_no_tokenizer_makes_more_tokens_than_there_are_bytes() -> None:
    litellm = import_litellm()
    for text in ("What is 17 + 4?" * 50, "日本語の文章です" * 50, "😀" * 100, "\\frac{1}{2}" * 100, ""):
        messages = (Message(role="system", content=text), Message(role="user", content=text))
        counted = litellm.token_counter(model="gpt-4o", messages=[dict(message) for message in messages])
        assert counted <= most_prompt_tokens(TeacherRequest(messages))
