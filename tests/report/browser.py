"""A headless Chromium, driven by its own chromedriver: the W3C WebDriver protocol is JSON by HTTP.

Debian: apt-get install chromium chromium-driver. Nothing else is needed, and nothing is downloaded.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for "this is an element"
BUTTONS = {"left": 0, "middle": 1, "right": 2}


def missing_browser() -> str | None:
    """Why there is no browser to test with; None if there is one."""
    if shutil.which("chromedriver") is None:
        return "no chromedriver (Debian: apt-get install chromium chromium-driver)"
    return None if shutil.which("chromium") or shutil.which("google-chrome") else "no chromium"


class Browser:
    """One window; use it in a with block."""

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._await_driver()
        options = {
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                "--no-proxy-server",
            ]
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._send("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(10)

    def open(self, path: Path) -> None:
        self._post("/url", {"url": path.resolve().as_uri()})

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        """The page's size in CSS pixels, whatever the window's frame takes."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self._cdp("Emulation.setDeviceMetricsOverride", metrics)
        self._cdp("Emulation.setTouchEmulationEnabled", {"enabled": touch})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a JavaScript function body; `arguments` are its arguments."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Run a script until its value is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"{script}: {self.log()}")
            time.sleep(0.05)
        return value

    def click(self, css: str) -> None:
        self._post(f"/element/{self._find(css)}/click", {})

    def keys(self, css: str, text: str) -> None:
        self._post(f"/element/{self._find(css)}/value", {"text": text})

    def drag(self, start: tuple[int, int], by: tuple[int, int], button: str = "left") -> None:
        """The mouse from a point of the window by so many pixels."""
        x, y = start
        self._mouse(
            {"type": "pointerMove", "duration": 0, "x": x, "y": y},
            {"type": "pointerDown", "button": BUTTONS[button]},
            {"type": "pointerMove", "duration": 20, "x": x + by[0], "y": y + by[1]},
            {"type": "pointerUp", "button": BUTTONS[button]},
        )

    def hover(self, x: int, y: int) -> None:
        self._mouse({"type": "pointerMove", "duration": 0, "x": x, "y": y})

    def wheel(self, x: int, y: int, down: int) -> None:
        step = {"type": "scroll", "x": x, "y": y, "deltaX": 0, "deltaY": down, "duration": 0}
        self._act({"type": "wheel", "id": "wheel", "actions": [step]})

    def touch_drag(self, start: tuple[int, int], by: tuple[int, int]) -> None:
        x, y = start
        steps = [
            {"type": "pointerMove", "duration": 0, "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "duration": 50, "x": x + by[0], "y": y + by[1]},
            {"type": "pointerUp", "button": 0},
        ]
        kind = {"pointerType": "touch"}
        self._act({"type": "pointer", "id": "finger", "parameters": kind, "actions": steps})

    def pinch(self, middle: tuple[int, int], reach: tuple[int, int]) -> None:
        """Two fingers left and right of a point, from one distance to it to another."""
        x, y = middle
        fingers = [
            {
                "type": "pointer",
                "id": f"finger{side}",
                "parameters": {"pointerType": "touch"},
                "actions": [
                    {"type": "pointerMove", "duration": 0, "x": x + side * reach[0], "y": y},
                    {"type": "pointerDown", "button": 0},
                    {"type": "pointerMove", "duration": 50, "x": x + side * reach[1], "y": y},
                    {"type": "pointerUp", "button": 0},
                ],
            }
            for side in (-1, 1)
        ]
        self._act(*fingers)

    def log(self) -> list[str]:
        """Everything on the console since the last call: errors, warnings, refused requests."""
        entries = self._post("/se/log", {"type": "browser"})
        return [f"{entry['level']} {entry['message']}" for entry in entries]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        options = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            box = self.run(
                "const r = document.documentElement; return [r.scrollWidth, r.scrollHeight]"
            )
            options["clip"] = {"x": 0, "y": 0, "width": box[0], "height": box[1], "scale": 1}
        data = self._cdp("Page.captureScreenshot", options)["data"]
        path.write_bytes(base64.b64decode(data))

    def _find(self, css: str) -> str:
        return self._post("/element", {"using": "css selector", "value": css})[ELEMENT]

    def _mouse(self, *steps: dict[str, Any]) -> None:
        kind = {"pointerType": "mouse"}
        self._act({"type": "pointer", "id": "mouse", "parameters": kind, "actions": list(steps)})

    def _act(self, *sources: dict[str, Any]) -> None:
        self._post("/actions", {"actions": list(sources)})

    def _cdp(self, name: str, parameters: dict[str, Any]) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._send("POST", self._session + path, body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as problem:
            raise RuntimeError(f"{path}: {problem.read().decode()}") from None

    def _await_driver(self) -> None:
        for _ in range(200):
            try:
                if self._send("GET", "/status")["ready"]:
                    return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("chromedriver does not answer")
