"""`lema review` in a real browser: keys, undo, a reload in the middle, 1,000 corrections, hostile text."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import AXE, CHROMIUM, NO_AXE, NO_CHROMIUM, Browser, start_browser
from command import start
from fake_run import HOSTILE, FakeRun

from lema_local.grades import GRADES_FILE, GradeBook
from lema_local.review.items import choose_items

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@contextlib.contextmanager
def reviewing(run: Path, home: Path, *flags: str) -> Iterator[str]:
    """Run the command; gives the page's address."""
    process = start("review", run, "--no-open", *flags, home=home)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        assert "Traceback" not in told


def marks(run: Path, reviewer: str) -> list[str]:
    return [one.mark for one in GradeBook(run / GRADES_FILE).current() if one.reviewer == reviewer]


def at(browser: Browser, number: int) -> None:
    browser.wait_for(f"location.pathname.endsWith('/{number}') && document.readyState === 'complete'")


def test_keys_grade_undo_takes_back_and_a_reload_loses_nothing(
    browser: Browser, tmp_path: Path, lema_home: Path
) -> None:
    run = FakeRun(train=20).write(tmp_path / "fake").path
    with reviewing(run, lema_home, "--reviewer", "ada", "--sample", "10") as address:
        browser.open(address)
        at(browser, 1)
        gold = choose_items(run, 10, 0).items[0].question.gold_answer  # type: ignore[union-attr]
        assert browser.evaluate("document.querySelector('#gold').open") is False
        browser.press("a")
        assert browser.evaluate("document.querySelector('#gold').open") is True
        assert gold in browser.evaluate("document.querySelector('#gold').innerText")
        for number, key in enumerate("egpws", 2):
            browser.press(key)
            at(browser, number)
        assert marks(run, "ada") == ["excellent", "good", "poor", "wrong_step", "skip"]
        browser.press("u")
        at(browser, 5)
        assert marks(run, "ada") == ["excellent", "good", "poor", "wrong_step"]
        browser.evaluate("(window.isOld = true, location.reload())")
        browser.wait_for(
            "window.isOld !== true && document.readyState === 'complete' && document.querySelector('#done') !== null"
        )
        assert browser.evaluate("document.querySelector('#done').innerText") == "4 of 10"
        browser.press("n")
        browser.type("the second step, I think: e p w")
        browser.wait_for("document.querySelector('#state').innerText === 'note saved'")
        assert marks(run, "ada")[4:] == []  # letters in a note grade nothing
        assert list(GradeBook(run / GRADES_FILE).notes().values()) == ["the second step, I think: e p w"]
    with reviewing(
        run, lema_home, "--reviewer", "ada", "--sample", "10"
    ) as address:  # goes on where it stopped
        browser.open(address)
        at(browser, 5)
        assert "I think" in browser.evaluate("document.querySelector('#note').value")
    assert browser.errors == []


def test_a_thousand_corrections_are_quick_to_walk_through(
    browser: Browser, tmp_path: Path, lema_home: Path
) -> None:
    run = FakeRun(train=1000, test=4).write(tmp_path / "fake").path
    assert choose_items(run, None, 0).available >= 1000
    with reviewing(run, lema_home, "--reviewer", "bo", "--sample", "1000") as address:
        browser.open(address)
        at(browser, 1)
        began = time.monotonic()
        for number in range(2, 32):
            browser.press("g")
            at(browser, number)
        assert (time.monotonic() - began) / 30 < 1.0
        browser.open(address + "overview")
        assert browser.evaluate("document.querySelectorAll('tbody tr').length") == 1000
        browser.open(address + "1000")
        assert browser.evaluate("document.querySelectorAll('[data-key=ArrowRight]').length") == 0
    assert len(marks(run, "bo")) == 30


def test_hostile_text_runs_nothing_and_builds_nothing(
    browser: Browser, tmp_path: Path, lema_home: Path
) -> None:
    run = FakeRun(train=12, test=4, hostile=HOSTILE).write(tmp_path / "fake").path
    browser.errors.clear()
    with reviewing(run, lema_home, "--reviewer", "<b>eve</b>", "--sample", "5") as address:
        browser.open(address)
        browser.resize(390, 1800)
        browser.evaluate(f"document.querySelector('#note').value = {HOSTILE[:80]!r}")
        browser.press("p")
        at(browser, 2)
        browser.press("ArrowLeft")
        at(browser, 1)
        assert browser.evaluate("document.title").startswith("1 of 5")
        assert browser.evaluate("document.querySelectorAll('img, iframe, b, script:not([src])').length") == 0
        assert browser.evaluate(
            "[...document.querySelectorAll('a')].every(a => a.href.startsWith(location.origin))"
        )
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        assert browser.evaluate("document.querySelectorAll('math').length") > 0
        browser.open(address + "overview")
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
    browser.resize(1100, 900)
    assert browser.errors == []


def test_a_blind_page_does_not_hold_the_teachers_name(
    browser: Browser, tmp_path: Path, lema_home: Path
) -> None:
    run = FakeRun(train=12, test=4).write(tmp_path / "fake").path
    for flags, is_told in (((), True), (("--blind",), False)):
        with reviewing(run, lema_home, *flags) as address:
            browser.open(address)
            at(browser, 1)
            assert ("reference" in browser.evaluate("document.documentElement.outerHTML")) is is_told


def test_without_javascript_the_buttons_still_grade(
    browser: Browser, tmp_path: Path, lema_home: Path
) -> None:
    run = FakeRun(train=12, test=4).write(tmp_path / "fake").path
    with reviewing(run, lema_home, "--reviewer", "cy") as address:
        browser.set_scripts(False)
        browser.open(address)
        at(browser, 1)
        browser.evaluate("document.querySelector('button.mark-poor').click()")
        at(browser, 2)
        browser.set_scripts(True)
    assert marks(run, "cy") == ["poor"]


@pytest.mark.parametrize(
    ("name", "width", "is_dark"), [("light", 1100, 0), ("dark", 1100, 1), ("phone", 390, 0)]
)
def test_the_page_is_drawn_light_dark_and_on_a_phone(
    browser: Browser, tmp_path: Path, lema_home: Path, name: str, width: int, is_dark: int
) -> None:
    run = (
        FakeRun(train=12, test=4, hostile=r" Let $\frac{1}{2}x^2 = \sqrt{2}$.").write(tmp_path / "fake").path
    )
    with reviewing(run, lema_home) as address:
        browser.resize(width, 1000)
        browser.set_dark(bool(is_dark))
        browser.open(address)
        at(browser, 1)
        browser.screenshot(tmp_path / f"review_{name}.png")
        seen = (
            "[...document.querySelectorAll('.buttons button')].map(b => b.getBoundingClientRect().left >= 0)"
        )
        assert browser.evaluate(seen) == [True] * 6
        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(18, 22, 28)" if is_dark else "rgb(246, 247, 249)")


@pytest.mark.skipif(AXE is None, reason=NO_AXE)
def test_axe_finds_no_serious_fault_in_light_and_dark(
    browser: Browser, tmp_path: Path, lema_home: Path
) -> None:
    run = FakeRun(train=12, test=4).write(tmp_path / "fake").path
    with reviewing(run, lema_home) as address:
        browser.allow_any_script()
        for is_dark in (False, True):
            browser.set_dark(is_dark)
            browser.open(address)
            at(browser, 1)
            assert browser.axe_faults() == []
            browser.open(address + "overview")
            assert browser.axe_faults() == []
