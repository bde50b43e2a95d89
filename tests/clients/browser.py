"""A real browser that a test drives: headless Chromium, over the WebDriver protocol that chromedriver speaks."""

import base64
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

PATIENCE_S = 60.0
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required"),
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The name under which WebDriver hands out an element."""


@dataclass(frozen=True)
class Browser:
    """One window. What WebDriver refuses is an ``httpx.HTTPStatusError``, with its reason."""

    session: httpx.Client

    def open(self, url: str) -> None:
        self._ask("/url", url=url)

    def run(self, script: str, *arguments: object) -> Any:
        """The value that a script's ``return`` gives; a promise's once it is fulfilled."""
        return self._ask("/execute/sync", script=script, args=arguments)

    def until(self, script: str, *arguments: object) -> Any:
        """The script's value once it is true."""
        end = time.monotonic() + PATIENCE_S
        while not (value := self.run(script, *arguments)):
            assert time.monotonic() < end, f"never came true: {script}\n{self.run('return document.body.innerText')}"
            time.sleep(0.1)
        return value

    def type(self, selector: str, text: str) -> None:
        """Type into a field, or give a file's path to a file field."""
        self._ask(f"/element/{self._element(selector)}/value", text=text)

    def click(self, selector: str) -> None:
        self._ask(f"/element/{self._element(selector)}/click")

    def hover(self, selector: str) -> None:
        """Move the mouse's pointer to an element."""
        place = {"origin": {_ELEMENT: self._element(selector)}, "x": 0, "y": 0}
        self._pointer([{"type": "pointerMove", "duration": 0, **place}])

    def point(self, selector: str, across: float, down: float) -> None:
        """Move the mouse's pointer to a place within an element, each a share of its size, as people do: on the way."""
        box = self.run(
            "const element = document.querySelector(arguments[0]); element.scrollIntoView({block: 'center'});"
            "const box = element.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]",
            selector,
        )
        x, y = round(box[0] + box[2] * across), round(box[1] + box[3] * down)
        self._pointer([{"type": "pointerMove", "duration": 0, "origin": "viewport", "x": x, "y": y}])

    def press(self, keys: str) -> None:
        """Press keys, one after the other, where the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("/actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def drop(self, selector: str, name: str, text: str) -> None:
        """Drop a file on an element, as a file manager does."""
        self.run(
            "const data = new DataTransfer(); data.items.add(new File([arguments[2]], arguments[1]));"
            "for (const type of ['dragenter', 'dragover', 'drop']) document.querySelector(arguments[0]).dispatchEvent("
            "new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}))",
            selector, name, text,
        )  # fmt: skip

    def emulate(self, width: int, height: int, *, dark: bool = False, script: bool = True) -> None:
        """Have a window of this size, narrower than a real one may be, in light or dark, with JavaScript or without."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self._command("Emulation.setScriptExecutionDisabled", value=not script)

    def picture(self, path: Path, *, most: int = 4000) -> None:
        """Write the whole page as a picture, of at most so many pixels' height."""
        size = self._command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(most, size["height"]), "scale": 1}
        shot = self._command("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def violations(self, axe: str) -> list[list[str]]:
        """What axe-core, given as its source, finds against the page: each rule with the first element."""
        found: list[list[str]] = self.run(
            f"{axe};return axe.run({{resultTypes: ['violations']}})"
            ".then((result) => result.violations.map((rule) => [rule.id, rule.nodes[0].html]))"
        )
        return found

    def resize(self, width: int, height: int) -> None:
        self._ask("/window/rect", width=width, height=height)

    def complaints(self) -> list[str]:
        """What the console has of errors since it was asked last: failed requests, broken rules, exceptions."""
        return [entry["message"] for entry in self._ask("/se/log", type="browser") if entry["level"] == "SEVERE"]

    def _pointer(self, actions: list[dict[str, Any]]) -> None:
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self._ask("/actions", actions=[mouse])

    def _command(self, name: str, **parameters: object) -> Any:
        """Of the browser's own protocol, for what WebDriver has no word for."""
        return self._ask("/goog/cdp/execute", cmd=name, params=parameters)

    def _element(self, selector: str) -> str:
        element: str = self._ask("/element", using="css selector", value=selector)[_ELEMENT]
        return element

    def _ask(self, path: str, **body: object) -> Any:
        answer = self.session.post(path, json=body)
        if answer.is_error:
            raise httpx.HTTPStatusError(answer.text, request=answer.request, response=answer)
        return answer.json()["value"]


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A new browser with an empty profile in this folder; the test is skipped where none is installed."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or program is None:
        pytest.skip("chromium or chromedriver is not on this machine")
    with _driver(driver) as address, httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        options = {"binary": program, "args": [*_OPTIONS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
        assert answer.is_success, answer.text
        path = f"/session/{answer.json()['value']['sessionId']}"
        try:
            with httpx.Client(base_url=address + path, timeout=PATIENCE_S) as session:
                yield Browser(session)
        finally:
            client.delete(path)


@contextmanager
def _driver(program: str) -> Iterator[str]:
    process = subprocess.Popen([program, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if port := re.search(r"successfully on port (\d+)", line):
                yield f"http://127.0.0.1:{port[1]}"
                return
        raise AssertionError("chromedriver did not start")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
