"""The report in a real browser: light, dark, on a phone, printed, searched, without JavaScript, with hostile text.

Chromium is found by $CHROME or on the PATH; where there is none these tests are skipped. LEMA_SCREENSHOTS names a
folder that keeps the pictures for a look by eye, LEMA_REPORT a report.html to take them of (a real run's).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import AXE, CHROMIUM, NO_AXE, NO_CHROMIUM, Browser, start_browser
from fake_run import HOSTILE, FakeRun

from lema_local.stages.report import read_run, read_two_runs, write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)

PHONE = 390
"""CSS pixels."""
LIGHT, DARK = "rgb(246, 247, 249)", "rgb(18, 22, 28)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shown := os.environ.get("LEMA_REPORT"):
        return Path(shown).resolve().as_uri()
    run = FakeRun().write(tmp_path_factory.mktemp("run") / "fake")
    FakeRun(seed=8).write(run.path / "round_2")
    other = FakeRun(seed=9).write(tmp_path_factory.mktemp("run") / "other")
    write_report(read_two_runs(run, other), run.path / "9_report")
    return (run.path / "9_report/report.html").as_uri()


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = FakeRun(train=12, test=24, hostile=HOSTILE).write(tmp_path_factory.mktemp("run") / "hostile")
    write_report(read_run(run), run.path / "9_report")
    return (run.path / "9_report/report.html").as_uri()


@pytest.fixture(autouse=True)
def as_at_a_desk(browser: Browser) -> None:
    browser.resize(1100, 1600)
    browser.set_dark(False)
    browser.set_scripts(True)


def open_all(browser: Browser) -> None:
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


def test_it_is_drawn_light_dark_and_on_a_phone(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page)
    for name, width, is_dark in (("light", 1100, False), ("dark", 1100, True), ("phone", PHONE, False)):
        browser.resize(width, 1600)
        browser.set_dark(is_dark)
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
            DARK if is_dark else LIGHT
        )
        for place in ("", "wrong", "corrections"):
            selector = f"#{place}" if place else "body"
            browser.evaluate(f"document.querySelector({selector!r}).scrollIntoView()")
            picture = tmp_path / f"report_{name}{'_' + place if place else ''}.png"
            browser.screenshot(picture)
            assert picture.stat().st_size > 20_000
    assert browser.errors == []


def test_it_asks_the_network_for_nothing(browser: Browser, page: str, hostile_page: str) -> None:
    for one in (page, hostile_page):
        browser.requests.clear()
        browser.open(one)
        open_all(browser)
        browser.wait_for("document.readyState === 'complete'")
        assert browser.requests == [one]


@pytest.mark.parametrize("which", ["page", "hostile_page"])
def test_nothing_but_tables_is_wider_than_a_phone(
    which: str, request: pytest.FixtureRequest, browser: Browser
) -> None:
    browser.resize(PHONE, 800)
    browser.open(request.getfixturevalue(which))
    open_all(browser)
    assert browser.evaluate("document.documentElement.scrollWidth") == PHONE


def test_the_search_finds_examples_and_says_how_many(browser: Browser, page: str) -> None:
    browser.open(page)
    shown = "[...document.querySelectorAll('article')].filter(one => one.offsetParent).length"
    every = browser.evaluate("document.querySelectorAll('article').length")
    assert browser.evaluate(shown) == every == 20
    assert browser.evaluate("document.querySelector('#found').textContent") == "20 of 20 examples"
    name = browser.evaluate("document.querySelectorAll('article h3')[3].textContent.split(' ')[1]")
    browser.evaluate("document.querySelector('#find-text').focus()")
    browser.type(f"{name.upper()} apples")
    assert 1 <= browser.evaluate(shown) < every
    assert browser.evaluate("document.querySelectorAll('article')[3].hidden") is False
    assert f"{browser.evaluate(shown)} of 20" in browser.evaluate(
        "document.querySelector('#found').textContent"
    )
    browser.type(" nowheretobefound")
    assert browser.evaluate(shown) == 0
    browser.evaluate(
        "(() => { const text = document.querySelector('#find-text'); text.value = '';"
        " const state = document.querySelector('#find-state'); state.value = 'mended';"
        " state.dispatchEvent(new Event('change')); })()"
    )
    assert browser.evaluate(shown) == browser.evaluate(
        "document.querySelectorAll('article[data-state=mended]').length"
    )
    browser.evaluate("document.querySelector('#open-all').click()")
    opened = "document.querySelectorAll('article:not([hidden]) details[open]').length"
    assert browser.evaluate(opened) == browser.evaluate(shown) > 0
    assert browser.errors == []


def test_without_javascript_everything_but_the_search_is_there(browser: Browser, page: str) -> None:
    browser.set_scripts(False)
    browser.open(page)
    assert browser.evaluate("document.querySelector('#find').offsetParent") is None
    assert browser.evaluate("document.querySelectorAll('article details').length") == 20
    assert "What may be concluded" in browser.evaluate("document.body.innerText")


def test_hostile_text_runs_nothing_and_builds_nothing(browser: Browser, hostile_page: str) -> None:
    browser.open(hostile_page)
    assert browser.evaluate("document.title") == "fake: LeMa report"
    built = (
        "[document.querySelectorAll('img,iframe,object,a:not([href^=\"#\"])').length,"
        " document.querySelectorAll('script').length,"
        " [...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => /^on/.test(a.name)).length]"
    )
    assert browser.evaluate(built) == [0, 1, 0]
    assert browser.evaluate("document.querySelectorAll('math mfrac').length") > 0
    assert browser.errors == []


def test_text_stands_out_from_its_background_in_light_and_dark(browser: Browser, page: str) -> None:
    browser.open(page)
    open_all(browser)
    for is_dark in (False, True):
        browser.set_dark(is_dark)
        assert browser.evaluate(CONTRAST) == []


@pytest.mark.skipif(AXE is None, reason=NO_AXE)
def test_axe_finds_no_serious_fault_in_light_and_dark(browser: Browser, page: str) -> None:
    browser.allow_any_script()
    for is_dark in (False, True):
        browser.set_dark(is_dark)
        browser.open(page)
        open_all(browser)
        assert browser.axe_faults() == []


def test_it_prints_every_part_closed_ones_too(browser: Browser, page: str) -> None:
    browser.open(page)
    pages = browser.print_pages()
    open_all(browser)
    assert 8 <= pages <= 80
    assert abs(browser.print_pages() - pages) <= 2


CONTRAST = """(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = new Set();
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || ['SCRIPT', 'STYLE'].includes(node.tagName.toUpperCase())) continue;
    const style = getComputedStyle(node);
    const colour = parse(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(colour), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.add(node.tagName + '.' + node.getAttribute('class') + ' ' + colour);
  }
  return [...poor];
})()"""
"""WCAG 2.1, 1.4.3: text has a contrast of 4.5 to 1 with what is behind it."""
