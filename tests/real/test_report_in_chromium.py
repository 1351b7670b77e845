"""The report in a real browser: light, dark and at a phone's width, with hostile text in every field.

Chromium is found by $CHROME or on the PATH; where there is none these tests are skipped. LEMA_SCREENSHOTS names a
folder that keeps the pictures for a look by eye.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from fake_run import HOSTILE, FakeRun

from lema_local.stages.report import read_run, write_report

CHROMIUM = os.environ.get("CHROME") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH, and $CHROME is not set")

DARK = "--blink-settings=preferredColorScheme=0"
PHONE = 390
"""CSS pixels. A window cannot be as narrow as that, a frame within one can."""

Browse = Callable[..., str]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Let Chromium open a page; returns its standard output."""

    def run(page: Path, *flags: str) -> str:
        assert CHROMIUM is not None
        done = subprocess.run(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                "--disable-background-networking", f"--user-data-dir={tmp_path / 'chromium'}",
                "--virtual-time-budget=5000", *flags, page.as_uri(),
            ],
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        return done.stdout

    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = FakeRun().write(tmp_path_factory.mktemp("run") / "fake")
    write_report(read_run(run), run.path / "9_report")
    return run.path / "9_report/report.html"


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = FakeRun(train=12, test=24, hostile=HOSTILE).write(tmp_path_factory.mktemp("run") / "hostile")
    write_report(read_run(run), run.path / "9_report")
    return run.path / "9_report/report.html"


def with_script(page: Path, script: str, name: str) -> Path:
    """Return a copy of the page in which our own script may run, and writes its findings into the title."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    copy = page.with_name(f"{name}.html")
    copy.write_text(
        html.replace("</body>", f"<script>document.title = {script}</script></body>"), encoding="utf-8"
    )
    return copy


def framed(page: Path, width: int, height: int) -> Path:
    """Return a page that shows the report in a narrow frame."""
    frame = page.with_name(f"frame_{page.stem}.html")
    frame.write_text(
        f"<body style='margin:0'><iframe src={page.name} style='border:0;width:{width}px;height:{height}px'>"
    )
    return frame


def title(dom: str) -> str:
    found = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert found is not None
    return unescape(found[1])


def keep(picture: Path) -> None:
    if folder := os.environ.get("LEMA_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)


def colours(picture: Path) -> tuple[tuple[int, ...], int]:
    """Return the colour of a picture's corner, and how many colours it has."""
    from PIL import Image

    with Image.open(picture) as image:
        flat = image.convert("RGB")
        return flat.getpixel((2, 2)), len(flat.getcolors(flat.width * flat.height) or ())


@pytest.mark.parametrize(
    ("name", "flags", "corner"), [("light", [], (246, 247, 249)), ("dark", [DARK], (18, 22, 28))]
)
def test_the_report_is_drawn_light_and_dark(
    page: Path, browse: Browse, tmp_path: Path, name: str, flags: list[str], corner: tuple[int, int, int]
) -> None:
    picture = tmp_path / f"report_{name}.png"
    browse(page, f"--screenshot={picture}", "--window-size=1100,2600", *flags)
    keep(picture)
    found, count = colours(picture)
    assert found == corner
    assert count > 50


def test_the_report_is_drawn_at_a_phones_width(page: Path, browse: Browse, tmp_path: Path) -> None:
    picture = tmp_path / "report_phone.png"
    browse(framed(page, PHONE, 5000), f"--screenshot={picture}", "--window-size=500,5000")
    keep(picture)
    assert colours(picture)[1] > 50


@pytest.mark.parametrize("which", ["page", "hostile_page"])
def test_nothing_but_tables_is_wider_than_a_phone(
    which: str, request: pytest.FixtureRequest, browse: Browse
) -> None:
    page = request.getfixturevalue(which)
    # The page tells the frame around it how wide it is; a file may read no other file's document.
    script = "(parent.postMessage(document.documentElement.scrollWidth, '*'), '')"
    frame = framed(with_script(page, script, "width"), PHONE, 800)
    listener = "<script>addEventListener('message', event => document.title = event.data)</script><title>none</title>"
    frame.write_text(listener + frame.read_text())
    assert title(browse(frame, "--dump-dom")) == str(PHONE)


def test_hostile_text_runs_nothing_and_builds_nothing(hostile_page: Path, browse: Browse) -> None:
    assert title(browse(hostile_page, "--dump-dom")) == "fake: LeMa report"
    script = (
        "JSON.stringify([document.querySelectorAll('script,img,iframe,object,a:not([href^=\"#\"])').length,"
        " [...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => /^on/.test(a.name)).length])"
    )
    dom = browse(with_script(hostile_page, script, "count"), "--dump-dom")
    assert title(dom) == "[1,0]"  # the one script is the test's own


def test_text_stands_out_from_its_background_in_light_and_dark(page: Path, browse: Browse) -> None:
    copy = with_script(page, CONTRAST, "contrast")
    for flags in ([], [DARK]):
        assert title(browse(copy, "--dump-dom", *flags)) == "[]"


def test_the_report_prints_every_part_closed_ones_too(page: Path, browse: Browse, tmp_path: Path) -> None:
    printed = tmp_path / "report.pdf"
    browse(page, f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    assert 8 <= pages <= 60


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
  return JSON.stringify([...poor]);
})()"""
"""WCAG 2.1, 1.4.3: text has a contrast of 4.5 to 1 with what is behind it."""
