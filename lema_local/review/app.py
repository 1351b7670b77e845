"""The review's pages: who may ask (this machine, with the token, from no other origin), and what is answered.

Every page lies below a path that begins with the token. A click is a form that is posted, saved, and answered by
sending the browser to the next correction: a reload shows what is on the disk.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from lema_local.errors import LemaError
from lema_local.grades import MARKS, GradeBook, Mark
from lema_local.report import words
from lema_local.report.mathml import render_math
from lema_local.review.items import ReviewItem

MAX_BODY = 64 * 1024
"""Bytes of a posted form."""
MAX_NOTE = 4000
"""Characters."""
LABELS: Mapping[Mark, tuple[str, str, str]] = {
    "excellent": ("Excellent", "e", "right step, sound explanation, goes on smoothly"),
    "good": ("Good", "g", "right step and explanation, with a flaw in how it goes on"),
    "poor": ("Poor", "p", "an explanation or solution that would teach something wrong"),
    "wrong_step": ("Wrong step", "w", "the named step is not the first wrong one"),
    "skip": ("Skip", "s", "leave it open"),
}
"""Mark: its words, its key, what it means. Source of the first three: arXiv 2310.20689, section 2.1."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",  # with no-referrer a form says "Origin: null"
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class ReviewSettings:
    """One reviewer's sitting."""

    title: str
    """Of the run."""
    reviewer: str
    is_blind: bool
    """The teacher's name is not in the page."""
    token: str
    hosts: frozenset[str]
    """Values of the Host header that are this server: `127.0.0.1:PORT`, `localhost:PORT`."""


class ReviewPages:
    """Answers the requests of one sitting.

    Args:
        items: In the order in which they are shown.
        book: Where marks and notes are kept.
        settings: Of the sitting.
    """

    def __init__(self, items: Sequence[ReviewItem], book: GradeBook, settings: ReviewSettings) -> None:
        self.items = items
        self.book = book
        self.settings = settings
        self.root = f"/{settings.token}/"
        self.position = {item.id: number for number, item in enumerate(items, 1)}
        self.environment = _environment()

    def own_marks(self) -> dict[str, Mark]:
        """Return this reviewer's latest marks of the items shown, by correction_id."""
        return {
            one.correction_id: one.mark
            for one in self.book.current()
            if one.reviewer == self.settings.reviewer and one.correction_id in self.position
        }

    def next_open(self, marks: Mapping[str, Mark], after: int = 0) -> int | None:
        """Return the next position (1-based) without a mark after one, else before it; None where all have one."""
        order = [*range(after + 1, len(self.items) + 1), *range(1, after + 1)]
        return next((number for number in order if self.items[number - 1].id not in marks), None)

    # --- pages ----------------------------------------------------------------------------------------------

    def show_first(self, _: Request) -> Response:
        """Go to the first correction without a mark; with none left, to the overview."""
        return self._go(self.next_open(self.own_marks()))

    def show_item(self, request: Request) -> Response:
        """Show one correction."""
        number = int(request.path_params["number"])
        if not 1 <= number <= len(self.items):
            raise HTTPException(404, f"there are {len(self.items)} corrections here, and no {number}.")
        item, marks = self.items[number - 1], self.own_marks()
        values = {
            "item": item,
            "number": number,
            "mark": marks.get(item.id),
            "note": self.book.notes().get((self.settings.reviewer, item.id), ""),
            "done": len(marks),
        }
        return self._page("item.html", values)

    def show_overview(self, _: Request) -> Response:
        """Show all corrections of the sitting with their marks."""
        marks, notes = self.own_marks(), self.book.notes()
        rows = [
            (number, item, marks.get(item.id), notes.get((self.settings.reviewer, item.id), ""))
            for number, item in enumerate(self.items, 1)
        ]
        tally = {mark: sum(one == mark for one in marks.values()) for mark in MARKS}
        return self._page("overview.html", {"rows": rows, "tally": tally, "done": len(marks)})

    def serve_file(self, request: Request) -> Response:
        """Return the style sheet or the script."""
        kinds = {"review.css": "text/css", "review.js": "text/javascript"}
        name = request.path_params["name"]
        if name not in kinds:
            raise HTTPException(404, "no such file.")
        here = Path(__file__).parent
        text = (here / "static" / name).read_text(encoding="utf-8")
        if name == "review.css":
            text = (here.parent / "report/templates/style.css").read_text(encoding="utf-8") + text
        return Response(text, media_type=kinds[name])

    # --- clicks ---------------------------------------------------------------------------------------------

    async def take_click(self, request: Request) -> Response:
        """Save a mark (and the note beside it), or the note alone; go on to the next correction."""
        form = await _read_form(request)
        item = self._item(form)
        if "note" in form:
            self.book.note(self.settings.reviewer, item.id, form["note"][:MAX_NOTE])
        mark = form.get("mark")
        if mark is None:
            return Response(status_code=204)
        if mark == "note":
            return self._go(self.position[item.id])
        if mark not in MARKS:
            raise HTTPException(400, f"{mark[:40]!r} is no mark.")
        self.book.mark(self.settings.reviewer, item.correction, mark)
        return self._go(self.next_open(self.own_marks(), self.position[item.id]))

    async def take_undo(self, request: Request) -> Response:
        """Take back the latest click and show its correction again."""
        await _read_form(request)
        known_id = self.book.undo(self.settings.reviewer)
        if known_id in self.position:
            return self._go(self.position[known_id])
        return self.show_first(request)

    # --- parts ----------------------------------------------------------------------------------------------

    def _item(self, form: Mapping[str, str]) -> ReviewItem:
        number = self.position.get(form.get("correction", ""))
        if number is None:
            raise HTTPException(400, "this correction is not part of the sitting; nothing was saved.")
        return self.items[number - 1]

    def _go(self, number: int | None) -> Response:
        return RedirectResponse(self.root + ("overview" if number is None else str(number)), status_code=303)

    def _page(self, template: str, values: Mapping[str, Any]) -> Response:
        shown = {
            "root": self.root,
            "settings": self.settings,
            "labels": LABELS,
            "total": len(self.items),
            **values,
        }
        return HTMLResponse(self.environment.get_template(template).render(shown))


def make_app(items: Sequence[ReviewItem], book: GradeBook, settings: ReviewSettings) -> Starlette:
    """Return the application that answers one sitting."""
    pages = ReviewPages(items, book, settings)
    root = "/{token}/"
    routes = [
        Route(root, pages.show_first),
        Route(root + "{number:int}", pages.show_item),
        Route(root + "overview", pages.show_overview),
        Route(root + "file/{name}", pages.serve_file),
        Route(root + "click", pages.take_click, methods=["POST"]),
        Route(root + "undo", pages.take_undo, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _say, LemaError: _say_error})
    return cast("Starlette", _guard(app, settings))


Ask = Callable[[Any, Any, Any], Awaitable[None]]


def _guard(app: Ask, settings: ReviewSettings) -> Ask:
    """Let through only what this machine's own page asks, and add the headers to every answer."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if refusal := _find_refusal(Request(scope), settings):
            response = PlainTextResponse(refusal, status_code=403, headers=HEADERS)
            await response(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return guarded


def _find_refusal(request: Request, settings: ReviewSettings) -> str | None:
    host = request.headers.get("host", "")
    if host not in settings.hosts:
        return "This page answers to its own address only.\n"
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "This page answers to no other origin.\n"
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return "This page answers to no other origin.\n"
    given = request.url.path.split("/")[1]
    if not hmac.compare_digest(given.encode(), settings.token.encode()):
        return "The address lacks the token: open the one that `lema review` printed.\n"
    return None


async def _read_form(request: Request) -> dict[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, "too much text; nothing was saved.")
    values = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
    return {name: found[-1] for name, found in values.items()}


def _say(_: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    return PlainTextResponse(f"{err.detail}\n", status_code=err.status_code)


def _say_error(_: Request, err: Exception) -> Response:
    hint = getattr(err, "hint", None)
    return PlainTextResponse(f"Error: {err}\nTry: {hint}\n" if hint else f"Error: {err}\n", status_code=500)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lema_local.review"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            words.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.filters["math"] = lambda text: render_math(words.clean(words.clip(str(text))))
    environment.filters["clip"] = words.clip
    environment.filters["mark"] = lambda mark: escape(LABELS[mark][0])
    return environment
