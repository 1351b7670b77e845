"""A real Chromium, driven over its own pipe: no driver, no library, no port.

Found by $CHROME or on the PATH. Commands: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("CHROME") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
NO_CHROMIUM = "no Chromium on the PATH, and $CHROME is not set"
_PLACES = (os.environ.get("AXE"), "node_modules/axe-core/axe.min.js")
AXE = next((path for path in map(Path, filter(None, _PLACES)) if path.is_file()), None)
NO_AXE = "no axe-core: `npm install --no-save axe-core`, or name its axe.min.js in $AXE"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
    "--disable-background-networking", "--disable-extensions", "--force-device-scale-factor=1",
)  # fmt: skip
WAIT_S = 120
"""The machine may be busy."""


class Browser:
    """One tab."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._count = 0
        self._rest = b""
        self.errors: list[str] = []
        """What the console complained of, and exceptions of scripts."""
        self.requests: list[str] = []
        """Addresses that pages asked for, their own and those of what they hold."""
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (reply := self._receive()).get("id") != self._count:
            self._note(reply)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return dict(reply["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], WAIT_S)
            assert ready, "Chromium says nothing"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium has ended"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["params"]["exceptionDetails"])[:500])
        elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.errors.append(event["params"]["entry"]["text"])

        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])

    def open(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        failed = self.send("Page.navigate", url=url).get("errorText")
        assert not failed, failed
        self.wait_for(
            f"document.readyState === 'complete' && location.href !== 'about:blank' && {json.dumps(url)} !== ''"
        )

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page (awaited if it is a promise)."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Wait until an expression is true; a page that is being left says nothing for a moment."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            found = self.send_or_none("Runtime.evaluate", expression=script, returnByValue=True)
            if found is not None and found["result"].get("value") is True:
                return
            time.sleep(0.01)
        raise AssertionError(
            f"never true: {script}; at {self.evaluate('location.href + document.body.innerText')}"
        )

    def send_or_none(self, method: str, **params: Any) -> dict[str, Any] | None:
        """Send a command that may fail while the page changes."""
        try:
            return self.send(method, **params)
        except AssertionError as err:
            if "Chromium" in str(err):
                raise
            return None

    def press(self, key: str) -> None:
        """Press and release a key, as a keyboard does."""
        text = key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "")

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        """Set the page's size in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def set_dark(self, is_dark: bool) -> None:
        """Ask for the dark or the light look."""
        value = "dark" if is_dark else "light"
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def set_scripts(self, are_on: bool) -> None:
        """Switch the page's own JavaScript on or off."""
        self.send("Emulation.setScriptExecutionDisabled", value=not are_on)

    def allow_any_script(self) -> None:
        """Put the pages' content security policies out of force, for a tool of ours such as axe-core."""
        self.send("Page.setBypassCSP", enabled=True)

    def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG; LEMA_SCREENSHOTS names a folder that keeps a copy."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
        if folder := os.environ.get("LEMA_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)

    def print_pages(self) -> int:
        """Return how many pages the page is printed on."""
        printed = base64.b64decode(self.send("Page.printToPDF")["data"])
        return len(re.findall(rb"/Type\s*/Page\b", printed))

    def axe_faults(self) -> list[str]:
        """Return the serious and critical faults that axe-core finds.

        A page whose policy forbids foreign scripts needs `allow_any_script`.
        """
        assert AXE is not None
        self.evaluate(AXE.read_text(encoding="utf-8") + ";0")
        found = self.evaluate(
            "axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + n.failureSummary)))"
        )
        return list(found)


@contextmanager
def start_browser(profile_dir: Path) -> Iterator[Browser]:
    """Start Chromium with a profile of its own; it ends with the block."""
    assert CHROMIUM is not None
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def place() -> None:  # in the child: commands come in as 3, answers go out as 4
        high_in, high_out = os.dup2(to_read, 60), os.dup2(from_write, 61)
        os.dup2(high_in, 3)
        os.dup2(high_out, 4)

    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile_dir}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=place,
    )  # fmt: skip
    os.close(to_read)
    os.close(from_write)
    try:
        yield Browser(from_read, to_write)
    finally:
        os.close(to_write)
        process.terminate()
        process.wait(WAIT_S)
        os.close(from_read)
