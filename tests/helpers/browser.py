"""A real Chromium, headless and without a network, driven over the pipe of its DevTools protocol."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# No name but this machine's own can be looked up, and nothing is asked for in the background.
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
]

# The keys that are no letters: their codes.
KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
} | {"ArrowDown": 40}

DESKTOP, PHONE = (1280, 800), (390, 844)


class Tab:
    """A page in the browser."""

    def __init__(self, wire: "Wire", session: str):
        self._wire, self._session = wire, session

    def call(self, method: str, **params: Any) -> dict:
        return self._wire.call(method, params, self._session)

    def open(self, url: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
        """Load a page in a window of that size; one as narrow as a phone is touched."""
        phone = size[0] < 500
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone, maxTouchPoints=2)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """Wait until an expression is true in the page."""
        end = time.monotonic() + seconds
        while not (value := self._try(expression)):
            assert time.monotonic() < end, f"never became true: {expression}"
            time.sleep(0.02)
        return value

    def _try(self, expression: str) -> Any:
        # While a page is exchanged for another one there is nothing to ask.
        with contextlib.suppress(AssertionError):
            return self.ask(expression)
        return None

    def press(self, *keys: str) -> None:
        """Press keys, one after another."""
        for key in keys:
            code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]} if key in KEYS else {"key": key}
            # Only these write something.
            written = {"text": "\r"} if key == "Enter" else {} if key in KEYS else {"text": key}
            self.call("Input.dispatchKeyEvent", type="keyDown", **code, **written)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, x: float, y: float) -> None:
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def pinch(self, x: float, y: float, factor: float) -> None:
        """Two fingers go apart."""
        for kind, apart in (("touchStart", 40), ("touchMove", 40 * factor), ("touchEnd", None)):
            fingers = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def picture(self, path: Path) -> Path:
        """Take a picture of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
        return path

    def events(self, method: str) -> list[dict]:
        """What this page has told of since it was opened, as Network.requestWillBeSent."""
        return [
            one["params"] for one in self._wire.events if one["method"] == method and one["sessionId"] == self._session
        ]


class Wire:
    """Messages to the browser and back, each ended by a zero."""

    def __init__(self, reading: int, writing: int):
        self._reading, self._writing, self._rest, self._last = reading, writing, b"", 0
        self.events: list[dict] = []

    def call(self, method: str, params: dict, session: str | None = None) -> dict:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            if "method" in answer:
                self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _receive(self) -> dict:
        while b"\0" not in self._rest:
            piece = os.read(self._reading, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    """A page of a new browser, whose profile lies in a folder."""
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pair in (os.pipe(), os.pipe()) for end in _moved(pair)]
    its_reading, our_writing, our_reading, its_writing = ends

    def connect() -> None:
        os.dup2(its_reading, 3)
        os.dup2(its_writing, 4)

    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        command, preexec_fn=connect, close_fds=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for end in (its_reading, its_writing):
        os.close(end)
    wire = Wire(our_reading, our_writing)
    try:
        target = wire.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = wire.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = Tab(wire, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        yield tab
    finally:
        with contextlib.suppress(AssertionError, OSError):
            wire.call("Browser.close", {})
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        for end in (our_reading, our_writing):
            os.close(end)


def _moved(pair: tuple[int, int]) -> Iterator[int]:
    """The ends of a pipe, each closed when it has been copied to another number."""
    for end in pair:
        yield end
        os.close(end)
