"""Who may ask the review's page, and what a click does: through the real application, without a browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_run import FakeRun

from lema_local.grades import GradeBook
from lema_local.review.app import HEADERS, ReviewSettings, make_app
from lema_local.review.items import ReviewItem, choose_items

TOKEN = "t" * 32
HOST = "127.0.0.1:4321"


class Client:
    """Asks the application itself; follows no redirect."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("POST", path, **more)


@pytest.fixture
def items(tmp_path: Path) -> list[ReviewItem]:
    return choose_items(FakeRun(train=10, test=4).write(tmp_path / "fake").path, 5, 0).items


@pytest.fixture
def book(tmp_path: Path) -> GradeBook:
    return GradeBook(tmp_path / "grades.sqlite")


@pytest.fixture
def client(items: list[ReviewItem], book: GradeBook) -> Client:
    settings = ReviewSettings("fake", "ada", False, TOKEN, frozenset({HOST}))
    return Client(make_app(items, book, settings))


def test_the_page_with_the_token_is_answered_with_strict_headers(client: Client) -> None:
    answer = client.get(f"/{TOKEN}/")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/{TOKEN}/1")
    answer = client.get(f"/{TOKEN}/1")
    assert answer.status_code == 200
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/wrong/1", {}),
        (f"/{TOKEN[:-1]}/1", {}),
        (f"/{TOKEN}/1", {"host": "evil.example"}),
        (f"/{TOKEN}/1", {"host": "127.0.0.1:9"}),
        (f"/{TOKEN}/1", {"origin": "http://evil.example"}),
        (f"/{TOKEN}/1", {"origin": "null"}),
        (f"/{TOKEN}/1", {"sec-fetch-site": "cross-site"}),
        (f"/{TOKEN}/1", {"sec-fetch-site": "same-site"}),  # another port of this machine
    ],
)
def test_others_are_refused(client: Client, path: str, headers: dict[str, str]) -> None:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 403
    assert TOKEN not in answer.text


def test_a_posted_mark_of_another_origin_is_not_saved(
    client: Client, items: list[ReviewItem], book: GradeBook
) -> None:
    form = {"correction": items[0].id, "mark": "good"}
    assert (
        client.post(f"/{TOKEN}/click", data=form, headers={"origin": "http://evil.example"}).status_code
        == 403
    )
    assert book.current() == []


def test_a_click_is_saved_and_the_next_open_one_follows(
    client: Client, items: list[ReviewItem], book: GradeBook
) -> None:
    for number in (1, 2, 4, 3):
        form = {"correction": items[number - 1].id, "mark": "good", "note": "seen" if number == 2 else ""}
        answer = client.post(f"/{TOKEN}/click", data=form, headers={"origin": f"http://{HOST}"})
    assert answer.headers["location"] == f"/{TOKEN}/5"
    assert book.notes() == {("ada", items[1].id): "seen"}
    answer = client.post(f"/{TOKEN}/click", data={"correction": items[4].id, "mark": "poor"})
    assert answer.headers["location"] == f"/{TOKEN}/overview"
    assert "All 5 corrections have a mark." in client.get(f"/{TOKEN}/overview").text
    assert client.post(f"/{TOKEN}/undo").headers["location"] == f"/{TOKEN}/5"
    assert [one.mark for one in book.current()] == ["good"] * 4


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"correction": "gone", "mark": "good"}, 400, "not part of the sitting"),
        ({"mark": "good"}, 400, "not part of the sitting"),
        ({"correction": "FIRST", "mark": "superb"}, 400, "is no mark"),
        ({"correction": "FIRST", "note": "x" * 70_000}, 413, "too much text"),
    ],
)
def test_bad_clicks_are_refused_and_nothing_is_saved(
    client: Client,
    items: list[ReviewItem],
    book: GradeBook,
    form: dict[str, str],
    status: int,
    words: str,
) -> None:
    sent = {name: items[0].id if value == "FIRST" else value for name, value in form.items()}
    answer = client.post(f"/{TOKEN}/click", data=sent)
    assert (answer.status_code, words in answer.text) == (status, True)
    assert (book.current(), book.notes()) == ([], {})


def test_pages_that_are_not_there_say_so(client: Client) -> None:
    for path in ("9999", "0", "file/../app.py", "file/app.py", "nothing"):
        assert client.get(f"/{TOKEN}/{path}").status_code == 404


def test_a_file_that_cannot_be_written_is_told_on_the_page(
    client: Client, items: list[ReviewItem], book: GradeBook
) -> None:
    book.path.write_bytes(b"damaged" * 1000)
    answer = client.post(f"/{TOKEN}/click", data={"correction": items[0].id, "mark": "good"})
    assert answer.status_code == 500
    assert "cannot use" in answer.text
