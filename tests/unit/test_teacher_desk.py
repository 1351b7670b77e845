from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lema_local.errors import BackendError, BackendUnavailable, BudgetReached
from lema_local.students.base import Message
from lema_local.teachers.base import Answered, CallFailed, Failed, RawReply, RequestRefused, TeacherRequest
from lema_local.teachers.budget import Budget
from lema_local.teachers.desk import TeacherDesk
from lema_local.teachers.journal import Journal
from lema_local.teachers.scheduler import DeskSettings, wait_before_next_try
from lema_local.teachers.throttle import Pace, Throttle

FAST = DeskSettings(concurrency=8, first_wait_s=0.01, longest_wait_s=0.05, drain_s=1.0)
Script = Callable[[TeacherRequest, int], "RawReply | Exception"]


class ScriptedTeacher:
    """Answers by a script of (request, how often it was asked before)."""

    name = "scripted"
    identity = ""
    reads_gold = False

    def __init__(self, script: Script | None = None, latency_s: float = 0.0, worst_usd: float = 0.0) -> None:
        self.script = script or (lambda request, before: reply(request))
        self.latency_s = latency_s
        self.worst_usd = worst_usd
        self.asked: Counter[tuple[str, int]] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.is_closed = False

    def worst_case_usd(self, request: TeacherRequest) -> float:
        return self.worst_usd

    async def reply(self, request: TeacherRequest) -> RawReply:
        key = (request.messages[0]["content"], request.max_tokens)
        before = self.asked[key]
        self.asked[key] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        result = self.script(request, before)
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        self.is_closed = True


def reply(request: TeacherRequest, finish: str = "stop", cost_usd: float = 0.0) -> RawReply:
    text = f"reply to {request.messages[0]['content']}"
    return RawReply(text, "m", finish, 5, 5, cost_usd, 0.01)  # type: ignore[arg-type]


def requests(count: int) -> Iterator[tuple[int, TeacherRequest]]:
    for number in range(count):
        yield number, TeacherRequest((Message(role="user", content=str(number)),), max_tokens=100)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as journal:
        yield journal


def ask(desk: TeacherDesk, count: int) -> dict[int, Answered | Failed]:
    return dict(desk.ask_many(requests(count)))


def test_every_request_gets_its_own_reply(journal: Journal) -> None:
    teacher = ScriptedTeacher(latency_s=0.002)
    with TeacherDesk(teacher, journal, settings=FAST) as desk:
        answers = ask(desk, 100)
    assert {n: a.reply.text for n, a in answers.items() if isinstance(a, Answered)} == {
        n: f"reply to {n}" for n in range(100)
    }
    assert 2 <= teacher.most_in_flight <= 8
    assert teacher.is_closed
    assert (desk.count.answered, desk.count.calls, desk.count.from_journal) == (100, 100, 0)


def test_a_second_run_takes_every_reply_from_the_journal(journal: Journal) -> None:
    with TeacherDesk(ScriptedTeacher(), journal, settings=FAST) as desk:
        first = ask(desk, 20)
    again = ScriptedTeacher()
    with TeacherDesk(again, journal, settings=replace(FAST, concurrency=1)) as desk:
        second = ask(desk, 20)
    assert again.asked.total() == 0
    for number in range(20):
        one, other = first[number], second[number]
        assert isinstance(one, Answered)
        assert isinstance(other, Answered)
        assert other == replace(one, is_from_journal=True)


def test_requests_are_drawn_only_as_they_are_needed(journal: Journal) -> None:
    drawn = 0

    def endless() -> Iterator[tuple[int, TeacherRequest]]:
        nonlocal drawn
        for item in requests(10_000):
            drawn += 1
            yield item

    with TeacherDesk(ScriptedTeacher(), journal, settings=replace(FAST, concurrency=2)) as desk:
        answers = desk.ask_many(endless())
        for _ in range(10):
            next(answers)
        assert drawn <= 10 + 2 * 2
        answers.close()


def test_a_fresh_desk_asks_anew_once(journal: Journal) -> None:
    with TeacherDesk(ScriptedTeacher(), journal, settings=FAST) as desk:
        ask(desk, 3)
    teacher = ScriptedTeacher()
    with TeacherDesk(teacher, journal, settings=replace(FAST, is_fresh=True)) as desk:
        ask(desk, 3)
        ask(desk, 3)
    assert teacher.asked.total() == 3


def test_a_call_that_fails_is_tried_again_and_told_when_the_tries_are_used_up(journal: Journal) -> None:
    def script(request: TeacherRequest, before: int) -> RawReply | Exception:
        number = int(request.messages[0]["content"])
        return CallFailed("500 try later") if number == 3 or before < number else reply(request)

    teacher = ScriptedTeacher(script)
    with TeacherDesk(teacher, journal, settings=replace(FAST, retries=2)) as desk:
        answers = ask(desk, 4)
    assert [isinstance(answers[n], Answered) for n in range(4)] == [True, True, True, False]
    assert answers[3] == Failed("500 try later")
    assert teacher.asked == {("0", 100): 1, ("1", 100): 2, ("2", 100): 3, ("3", 100): 3}
    assert desk.count.faults == {"server error": 6}


def test_a_failed_request_is_asked_again_by_the_next_run(journal: Journal) -> None:
    def script(request: TeacherRequest, before: int) -> RawReply | Exception:
        return CallFailed("no") if before < 2 else reply(request)

    with TeacherDesk(ScriptedTeacher(script), journal, settings=replace(FAST, retries=0)) as desk:
        assert [type(ask(desk, 1)[0]) for _ in range(3)] == [Failed, Failed, Answered]


@pytest.mark.parametrize(
    "error", [BackendError("401 wrong key"), RequestRefused("400 no", is_only_this=False)]
)
def test_a_request_that_is_refused_at_the_start_ends_the_run_at_once(
    journal: Journal, error: BackendError
) -> None:
    teacher = ScriptedTeacher(lambda request, before: error, latency_s=0.01)
    with TeacherDesk(teacher, journal, settings=FAST) as desk, pytest.raises(BackendError, match=str(error)):
        ask(desk, 1000)
    assert teacher.asked.total() == 1


def test_a_request_that_alone_cannot_be_served_fails_alone(journal: Journal) -> None:
    def script(request: TeacherRequest, before: int) -> RawReply | Exception:
        if request.messages[0]["content"] == "0":
            return RequestRefused("too long", is_only_this=True)
        return (
            RequestRefused("400", is_only_this=False)
            if request.messages[0]["content"] == "9"
            else reply(request)
        )

    with TeacherDesk(ScriptedTeacher(script), journal, settings=replace(FAST, concurrency=1)) as desk:
        answers = ask(desk, 10)
    assert [n for n, answer in answers.items() if isinstance(answer, Failed)] == [0, 9]


def test_a_teacher_that_is_not_there_ends_the_run_before_it_starts(journal: Journal) -> None:
    teacher = ScriptedTeacher(lambda request, before: CallFailed("refused", is_unreachable=True))
    with (
        TeacherDesk(teacher, journal, settings=replace(FAST, retries=1)) as desk,
        pytest.raises(BackendUnavailable, match="refused"),
    ):
        ask(desk, 1000)


def test_a_teacher_that_goes_away_ends_the_run_and_what_came_stays(journal: Journal) -> None:
    def script(request: TeacherRequest, before: int) -> RawReply | Exception:
        return (
            reply(request)
            if int(request.messages[0]["content"]) < 20
            else CallFailed("gone", is_unreachable=True)
        )

    teacher = ScriptedTeacher(script)
    settings = replace(FAST, retries=0, failures_in_a_row=5, concurrency=2)
    answered = []
    with (
        TeacherDesk(teacher, journal, settings=settings) as desk,
        pytest.raises(BackendError, match="5 requests"),
    ):
        for number, answer in desk.ask_many(requests(1000)):
            if isinstance(answer, Answered):
                answered.append(number)
    assert sorted(answered) == list(range(20))
    assert teacher.asked.total() < 40


def test_a_cut_reply_is_asked_for_once_more_with_a_larger_limit_and_never_unchanged(journal: Journal) -> None:
    def script(request: TeacherRequest, before: int) -> RawReply | Exception:
        return reply(
            request, "length" if request.max_tokens < 400 or request.messages[0]["content"] == "1" else "stop"
        )

    teacher = ScriptedTeacher(script)
    settings = replace(FAST, max_tokens_on_cut=400)
    for _ in range(2):
        with TeacherDesk(teacher, journal, settings=settings) as desk:
            answers = ask(desk, 2)
        finishes = [
            answer.reply.finish_reason
            for _, answer in sorted(answers.items())
            if isinstance(answer, Answered)
        ]
        assert finishes == ["stop", "length"]
    assert teacher.asked == {(str(n), limit): 1 for n in (0, 1) for limit in (100, 400)}


def test_without_a_larger_limit_a_cut_reply_stays(journal: Journal) -> None:
    teacher = ScriptedTeacher(lambda request, before: reply(request, "length"))
    with TeacherDesk(teacher, journal, settings=FAST) as desk:
        ask(desk, 2)
        ask(desk, 2)
    assert teacher.asked.total() == 2
    assert desk.count.cut == 2


def test_the_cap_holds_with_64_calls_in_flight_and_what_is_in_flight_comes_in(journal: Journal) -> None:
    budget = Budget(1.0)
    highest = []

    def script(request: TeacherRequest, before: int) -> RawReply:
        highest.append(budget.spent_usd + budget.reserved_usd)
        return reply(request, cost_usd=0.002 + int(request.messages[0]["content"]) % 7 / 1000)

    teacher = ScriptedTeacher(script, latency_s=0.01, worst_usd=0.03)
    with TeacherDesk(teacher, journal, budget, replace(FAST, concurrency=64), scope="run") as desk:
        answers = {}
        with pytest.raises(BudgetReached):
            for number, answer in desk.ask_many(requests(10_000)):
                answers[number] = answer
    assert max(highest) <= 1.0 + 1e-9
    assert 0.97 < budget.spent_usd <= 1.0
    assert len(answers) == teacher.asked.total() == desk.count.calls
    assert journal.spending("run").spent_usd == pytest.approx(budget.spent_usd)
    with TeacherDesk(ScriptedTeacher(), journal, settings=FAST) as desk:
        ask(desk, len(answers))
        assert desk.count.from_journal > 0.9 * len(answers)


def test_a_call_that_may_have_been_billed_counts_at_its_worst_case(journal: Journal) -> None:
    def script(request: TeacherRequest, before: int) -> RawReply | Exception:
        return CallFailed("broken off", may_have_cost=True) if before == 0 else reply(request, cost_usd=0.1)

    budget = Budget(10.0)
    with TeacherDesk(ScriptedTeacher(script, worst_usd=1.0), journal, budget, FAST, scope="run") as desk:
        ask(desk, 2)
    assert budget.spent_usd == pytest.approx(2 * 1.0 + 2 * 0.1)
    assert (desk.count.unknown, journal.spending("run").unknown) == (2, 2)


def test_the_calls_cap_counts_further_tries(journal: Journal) -> None:
    teacher = ScriptedTeacher(lambda request, before: CallFailed("no") if before == 0 else reply(request))
    with (
        TeacherDesk(teacher, journal, Budget(max_calls=7), FAST) as desk,
        pytest.raises(BudgetReached, match="7 calls"),
    ):
        ask(desk, 100)
    assert teacher.asked.total() == 7


def test_a_call_that_takes_too_long_is_given_up_and_booked(journal: Journal) -> None:
    teacher = ScriptedTeacher(latency_s=30.0, worst_usd=0.5)
    budget = Budget(10.0)
    settings = replace(FAST, timeout_s=0.05, grace_s=0.05, retries=1)
    with TeacherDesk(teacher, journal, budget, settings) as desk:
        assert ask(desk, 1)[0] == Failed("the call did not end")
    assert budget.spent_usd == pytest.approx(1.0)


def test_calls_in_flight_shrink_on_429_and_grow_back(journal: Journal) -> None:
    most = 4
    teacher = ScriptedTeacher(latency_s=0.005)

    def script(request: TeacherRequest, before: int) -> RawReply | Exception:
        if teacher.in_flight >= most:
            return CallFailed("429", is_rate_limit=True)
        return reply(request)

    teacher.script = script
    with TeacherDesk(teacher, journal, settings=replace(FAST, concurrency=64, retries=50)) as desk:
        answers = ask(desk, 300)
    assert all(isinstance(answer, Answered) for answer in answers.values())
    refused = desk.count.faults["rate limit"]
    assert refused < 300, "most calls are sent when there is room for them"


def test_the_same_request_twice_at_once_is_sent_once(journal: Journal) -> None:
    teacher = ScriptedTeacher(latency_s=0.05)
    same = [(number, next(requests(1))[1]) for number in range(5)]
    with TeacherDesk(teacher, journal, settings=FAST) as desk:
        answers = dict(desk.ask_many(same))
    assert len(answers) == 5
    assert teacher.asked.total() == 1


def test_two_desks_on_one_journal_send_each_request_once(journal: Journal) -> None:
    teacher = ScriptedTeacher(latency_s=0.01)
    found: list[dict[int, Answered | Failed]] = []

    def work() -> None:
        with Journal(journal.path) as own, TeacherDesk(teacher, own, settings=FAST) as desk:
            found.append(ask(desk, 60))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(answers) for answers in found] == [60, 60]
    assert set(teacher.asked.values()) == {1}


def test_when_nobody_waits_any_more_what_is_in_flight_is_still_journaled(journal: Journal) -> None:
    teacher = ScriptedTeacher(latency_s=0.1)
    with TeacherDesk(teacher, journal, settings=FAST, scope="run") as desk:
        answers = desk.ask_many(requests(1000))
        next(answers)
        answers.close()
    spending = journal.spending("run")
    assert teacher.asked.total() == spending.answered <= 16
    assert (spending.unknown, spending.in_flight) == (0, 0)


def test_what_does_not_come_in_after_an_interrupt_is_booked_as_unknown(journal: Journal) -> None:
    slow = ScriptedTeacher(latency_s=30.0, worst_usd=0.25)
    started = time.monotonic()
    with TeacherDesk(slow, journal, settings=replace(FAST, drain_s=0.05), scope="run") as desk:

        def interrupted() -> Iterator[tuple[int, TeacherRequest]]:
            yield from requests(8)
            deadline = time.monotonic() + 5
            while slow.in_flight < 8 and time.monotonic() < deadline:
                time.sleep(0.01)
            raise KeyboardInterrupt

        slow.latency_s = 0.0
        list(desk.ask_many([(-1, TeacherRequest((Message(role="user", content="first"),)))]))
        slow.latency_s = 30.0
        with pytest.raises(KeyboardInterrupt):
            list(desk.ask_many(interrupted()))
    assert time.monotonic() - started < 10
    spending = journal.spending("run")
    assert (spending.unknown, spending.spent_usd) == (8, pytest.approx(2.0))


def test_a_bug_in_a_teacher_stays_a_traceback(journal: Journal) -> None:
    teacher = ScriptedTeacher(lambda request, before: ZeroDivisionError("bug"))
    with TeacherDesk(teacher, journal, settings=FAST) as desk, pytest.raises(ZeroDivisionError):
        ask(desk, 3)


def test_the_wait_grows_by_chance_and_is_as_long_as_the_server_asks() -> None:
    settings = DeskSettings(first_wait_s=1.0, longest_wait_s=60.0)
    for tries, longest in ((1, 1.0), (2, 2.0), (5, 16.0), (20, 60.0)):
        waits = [wait_before_next_try(settings, tries, None) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
    asked = [wait_before_next_try(settings, 1, 75.0) for _ in range(50)]
    assert 75.0 < min(asked) < max(asked) < 77.0


def test_a_server_that_asks_to_wait_for_a_day_ends_the_run(journal: Journal) -> None:
    error = CallFailed("429 daily limit", is_rate_limit=True, retry_after_s=86_400.0)
    teacher = ScriptedTeacher(lambda request, before: error)
    with TeacherDesk(teacher, journal, settings=FAST) as desk, pytest.raises(BackendError, match="86400 s"):
        ask(desk, 10)


def test_a_pace_spaces_calls_evenly_by_number_and_by_tokens() -> None:
    pace = Pace(rpm=600, tpm=None)
    assert [round(pace.reserve(1000), 2) for _ in range(4)] == [0.0, 0.1, 0.2, 0.3]
    pace = Pace(rpm=None, tpm=60_000)
    assert [round(pace.reserve(tokens), 1) for tokens in (500, 100, 1000)] == [0.0, 0.5, 0.6]
    pace.settle(1000, 200)
    assert round(pace.reserve(1), 1) == 0.8, "what a call did not use is given back"
    assert Pace(None, None).reserve(10**6) == 0.0


@pytest.mark.parametrize("limit", [{"rpm": 1200}, {"tpm": 1200 * (100 + 17)}])
def test_calls_a_minute_are_kept_however_many_may_be_in_flight(
    journal: Journal, limit: dict[str, int]
) -> None:
    sent: list[float] = []

    def script(request: TeacherRequest, before: int) -> RawReply:
        sent.append(time.monotonic())
        return replace(reply(request), prompt_tokens=17, completion_tokens=100)

    settings = replace(FAST, concurrency=64, **limit)  # type: ignore[arg-type]
    with TeacherDesk(ScriptedTeacher(script), journal, settings=settings) as desk:
        assert len(ask(desk, 20)) == 20
    took = sent[-1] - sent[0]
    assert 0.8 < took < 5.0, "20 calls at 20 a second"


def test_waiting_for_the_pace_ends_when_the_calls_end(journal: Journal) -> None:
    def script(request: TeacherRequest, before: int) -> RawReply | Exception:
        return BackendError("401 wrong key")

    started = time.monotonic()
    with (
        TeacherDesk(ScriptedTeacher(script), journal, settings=replace(FAST, rpm=1)) as desk,
        pytest.raises(BackendError, match="401"),
    ):
        ask(desk, 10)
    assert time.monotonic() - started < 10


def test_cut_empty_and_filtered_replies_are_counted(journal: Journal) -> None:
    kinds = {"0": ("", "stop"), "1": (" ", "stop"), "2": ("", "content_filter"), "3": ("", "length")}

    def script(request: TeacherRequest, before: int) -> RawReply:
        text, finish = kinds.get(request.messages[0]["content"], ("x", "stop"))
        return replace(reply(request, finish), text=text)

    with TeacherDesk(ScriptedTeacher(script), journal, settings=FAST) as desk:
        ask(desk, 5)
        assert (desk.count.empty, desk.count.filtered, desk.count.cut) == (2, 1, 1)
        assert desk.count.as_dict()["empty"] == 2


def test_retry_after_stops_all_new_calls_for_as_long_as_asked() -> None:
    async def work() -> float:
        throttle = Throttle(4)
        throttle.note_reply()
        await throttle.acquire()
        throttle.note_rate_limit(time.monotonic(), 0.3)
        throttle.release()
        started = time.monotonic()
        await asyncio.gather(*(throttle.acquire() for _ in range(2)))
        return time.monotonic() - started

    assert asyncio.run(work()) >= 0.29


def test_calls_refused_together_halve_the_limit_once() -> None:
    throttle = Throttle(32)
    assert throttle.limit == 1, "the first call goes alone"
    throttle.note_reply()
    assert throttle.limit == 32
    sent_at = time.monotonic()
    for _ in range(10):
        throttle.note_rate_limit(sent_at, None)
    assert throttle.limit == 16
    throttle.note_rate_limit(time.monotonic(), None)
    assert throttle.limit == 8
    for _ in range(8):
        throttle.note_reply()
    assert 8.5 < throttle.limit < 9.5
    for _ in range(2000):
        throttle.note_reply()
    assert throttle.limit == 32
