"""Open a page in headless Chromium, without a network, and report what a reader would see.

The browser is driven over the DevTools protocol through a pair of pipes, so that nothing beyond
the standard library and a Chromium on the machine is needed. Name resolution is switched off and
every request that the page attempts is recorded: `PageVisit.requests` holds those that would have
left the machine, and a self-contained page has none.

    visit = open_page(Path("report.html"), width=400)
    assert visit.requests == () and visit.console_errors == ()
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
# Chromium takes commands from descriptor 3 and answers on 4. Copies above 9 first, because one of
# the pipes may itself be 3 or 4; a shell would not do, dash knows one-digit descriptors only.
_LAUNCHER = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_STAYS_HERE = ("file:", "data:", "blob:", "about:")


def find_browser() -> str | None:
    """Path of a Chromium on this machine, None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class PageVisit:
    """What one visit to a page showed.

    Attributes:
        text: The text a reader sees.
        dom: The document after its scripts ran.
        console_errors: Uncaught exceptions, errors and failed loads, in order.
        requests: Addresses outside this machine that the page asked for.
        screenshot: The picture, as PNG bytes.
        results: What the expressions given to `open_page` returned.
    """

    text: str
    dom: str
    console_errors: tuple[str, ...]
    requests: tuple[str, ...]
    screenshot: bytes
    results: tuple[Any, ...] = ()


@final
class Page:
    """One open tab: evaluate, move the mouse, take a picture."""

    def __init__(self, browser: "Browser", session: str):
        self._browser = browser
        self._session = session
        self.console_errors: list[str] = []
        self._requests: dict[str, str] = {}

    @property
    def requests(self) -> tuple[str, ...]:
        """Addresses outside this machine that the page asked for, in order."""
        return tuple(self._requests.values())

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command, answered."""
        return self._browser.call(method, parameters, self._session)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression!r} failed: {json.dumps(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 120.0) -> None:
        """Return as soon as the expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"!!({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{expression!r} stayed false for {seconds} s; console: {self.console_errors}"
                )
            time.sleep(0.02)

    def hover(self, selector: str, index: int = 0) -> None:
        """Put the mouse on the middle of an element."""
        found = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        x, y = self.evaluate(
            f"(() => {{const e = {found}; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect();"
            "return [r.left + r.width / 2, r.top + r.height / 2]})()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 1, y=y)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, full: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        return base64.b64decode(answer["data"])

    def observe(self, event: dict[str, Any]) -> None:
        """Keep what an event says about errors and requests."""
        method, body = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            if not (address := body["request"]["url"]).startswith(_STAYS_HERE):
                self._requests[body["requestId"]] = address
        elif method == "Network.webSocketCreated":
            self._requests[body["requestId"]] = body["url"]
        elif method == "Network.loadingFailed" and body.get("blockedReason") == "csp":
            # The page's own policy stopped it before it was sent; the console tells of it.
            self._requests.pop(body["requestId"], None)
        elif method == "Runtime.exceptionThrown":
            details = body["exceptionDetails"]
            self.console_errors.append(
                details.get("exception", {}).get("description", details["text"])
            )
        elif method == "Runtime.consoleAPICalled" and body["type"] in ("error", "assert"):
            parts = (str(a.get("value", a.get("description", ""))) for a in body["args"])
            self.console_errors.append(" ".join(parts))
        elif method == "Log.entryAdded" and body["entry"]["level"] == "error":
            self.console_errors.append(body["entry"]["text"])


@final
class Browser:
    """A running headless Chromium; made by `browser()`."""

    def __init__(self, write_fd: int, read_fd: int):
        self._write_fd, self._read_fd = write_fd, read_fd
        self._buffer = b""
        self._count = 0
        self._pages: dict[str, Page] = {}

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read_fd], [], [], deadline - time.monotonic())
            chunk = os.read(self._read_fd, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError(f"the browser did not answer within {seconds} s")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def call(
        self, method: str, parameters: dict[str, Any], session: str | None = None
    ) -> dict[str, Any]:
        """One command; events that arrive before its answer go to their pages."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        rest = json.dumps(command).encode() + b"\0"
        while rest:
            rest = rest[os.write(self._write_fd, rest) :]
        while True:
            message = self._receive(120.0)
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            page = self._pages.get(message.get("sessionId", ""))
            if page is not None:
                page.observe(message)

    @contextmanager
    def page(
        self, path: Path, width: int = 1280, height: int = 900, javascript: bool = True
    ) -> Iterator[Page]:
        """Open a file in a new tab of its own size, and wait until it has loaded."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        if not javascript:
            page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.call("Page.navigate", url=path.resolve().as_uri())
        page.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")
        try:
            yield page
        finally:
            self.call("Target.closeTarget", {"targetId": target})
            del self._pages[attached["sessionId"]]

    def visit(
        self,
        path: Path,
        width: int = 1280,
        height: int = 900,
        expressions: Sequence[str] = (),
        ready: str = "true",
        full: bool = False,
        javascript: bool = True,
    ) -> PageVisit:
        """Open a page, wait until `ready` holds, evaluate the expressions, and look."""
        with self.page(path, width, height, javascript) as page:
            page.wait_for(ready)
            results = tuple(page.evaluate(expression) for expression in expressions)
            page.evaluate("new Promise(done => setTimeout(done, 50))" if javascript else "0")
            return PageVisit(
                text=page.evaluate("document.body.innerText"),
                dom=page.evaluate("document.documentElement.outerHTML"),
                screenshot=page.screenshot(full),
                console_errors=tuple(page.console_errors),
                requests=page.requests,
                results=results,
            )


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium with a profile of its own; it ends with the block.

    Skips the test if no Chromium is on this machine.
    """
    binary = find_browser()
    if binary is None:
        pytest.skip(f"no Chromium here; install one under one of the names {_NAMES}")
    command_read, command_write = os.pipe()
    event_read, event_write = os.pipe()
    profile = tempfile.mkdtemp(prefix="psr-lens-browser-")
    process = subprocess.Popen(
        [
            *(sys.executable, "-S", "-c", _LAUNCHER, str(command_read), str(event_write)),
            *(binary, *_SWITCHES, f"--user-data-dir={profile}"),
        ],
        pass_fds=(command_read, event_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_read)
    os.close(event_write)
    running = Browser(command_write, event_read)
    try:
        yield running
    finally:
        try:
            running.call("Browser.close", {})
            process.wait(timeout=20)
        except (TimeoutError, OSError, RuntimeError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        os.close(command_write)
        os.close(event_read)
        shutil.rmtree(profile, ignore_errors=True)


def open_page(path: Path, **options: Any) -> PageVisit:
    """Visit one page in a browser of its own; options as for `Browser.visit`."""
    with browser() as running:
        return running.visit(path, **options)
