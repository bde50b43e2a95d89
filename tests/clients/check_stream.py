"""The page that shows a session, in a browser: three segments play by MSE, with and without sound, without errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_process import until
from tests.clients.browser import Browser, chromium
from tests.servers import free_port
from tests.serving import Served, serving
from tests.tiny_pipelines import TINY

CONFIG = """
default_request: { sampling: { num_frames: 24, fps: 24 } }
streaming: { generation_segment_cap: 3, mock: { step_ms: 20 } }
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("mock")
    (folder / "serve.yaml").write_text(CONFIG)
    with serving(folder / "home", "--mock", "--config", folder / "serve.yaml") as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        opened.resize(1280, 900)
        yield opened


@pytest.fixture
def page(browser: Browser, served: Served) -> Browser:
    browser.open("about:blank")
    browser.open(f"{served.client.base_url}/stream")
    browser.complaints()
    return browser


def _state(name: str) -> str:
    return f"return document.getElementById('stream').dataset.state === '{name}'"


def _watch(page: Browser) -> None:
    """Ask for three segments, and wait for the session's end."""
    page.click("#open")
    page.until(_state("ready"))
    for number in range(3):
        page.type("input[name=prompt]", f" fox {number}")
        page.click("#send")
    page.until(_state("ended"))


@pytest.mark.parametrize("sound", [False, True])
def test_three_segments_play_one_after_the_other(page: Browser, sound: bool) -> None:
    if sound:
        page.click("input[name=silent_audio]")
    _watch(page)
    video = "document.getElementById('video')"

    page.until(f"return {video}.currentTime > 2.5")  # three segments of a second each

    assert page.run("return document.getElementById('problem').textContent") == ""
    assert page.run(f"return {video}.error") is None
    assert page.run(f"return {video}.buffered.length") == 1, "there is a hole between two segments"
    assert page.run(f"return Math.abs({video}.buffered.end(0) - 3) < 0.2")
    assert page.run("return Number(document.getElementById('fragments').textContent)") >= 15
    told = page.run("return [...document.querySelectorAll('#messages li')].map((item) => item.textContent)")
    assert sum("mp4a.40.2" in text for text in told) == (3 if sound else 0)
    assert page.complaints() == []


def test_pictures_are_drawn_where_they_are_asked_for(page: Browser) -> None:
    page.run("document.querySelector('select[name=mode]').value = 'legacy_jpeg'")
    _watch(page)
    page.until("return parseFloat(document.getElementById('played').textContent) > 2.5")
    pixel = "document.getElementById('pictures').getContext('2d').getImageData(128, 128, 1, 1).data"
    assert page.run(f"return [...{pixel}]")[3] == 255
    assert page.complaints() == []


def test_what_is_turned_down_is_said_and_the_session_goes_on(page: Browser) -> None:
    page.click("#open")
    page.until(_state("ready"))
    page.type("input[name=prompt]", "an unsafe fox")
    page.click("#send")
    page.until("return document.getElementById('problem').textContent.includes('classifier')")
    page.click("#stop")
    page.until(_state("ended"))
    assert page.complaints() == []


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_not_wider_than_the_window(page: Browser, width: int) -> None:
    page.resize(width, 900)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")


def test_segments_of_a_line_play_too(browser: Browser, tmp_path: Path) -> None:
    sampling = "sampling: { num_frames: 24, fps: 24, width: 64, height: 64 }"
    streaming = "streaming: { preset: idle, generation_segment_cap: 3 }"
    (tmp_path / "serve.yaml").write_text(f"{streaming}\ndefault_request: {{ {sampling} }}\n")
    with serving(tmp_path / "home", "--config", tmp_path / "serve.yaml") as server:
        until(lambda: server.client.get("/readyz").json()["ready_gpu_workers"])
        browser.resize(1280, 900)
        browser.open(f"{server.client.base_url}/stream")
        browser.complaints()
        _watch(browser)
        browser.until("return document.getElementById('video').currentTime > 2.3")
        assert browser.run("return document.getElementById('problem').textContent") == ""
        assert browser.run("return document.getElementById('video').buffered.length") == 1
        assert browser.complaints() == []


def test_three_segments_of_a_model_that_makes_sound_play_with_it(browser: Browser, tmp_path: Path) -> None:
    home = tmp_path / "home"
    TINY["ltx2"].save(tmp_path / "model", home / "presets", "tiny-ltx2")
    sampling = "sampling: { num_frames: 25, fps: 8, width: 32, height: 32, num_inference_steps: 2 }"
    streaming = "streaming: { preset: tiny-ltx2, generation_segment_cap: 3 }"
    (tmp_path / "serve.yaml").write_text(f"{streaming}\ndefault_request: {{ {sampling} }}\n")
    with serving(home, "--config", tmp_path / "serve.yaml") as server:
        until(lambda: server.client.get("/readyz").json()["ready_gpu_workers"])
        browser.resize(1280, 900)
        browser.open(f"{server.client.base_url}/stream")
        browser.complaints()
        _watch(browser)
        browser.until("return document.getElementById('video').currentTime > 6.5")  # 25 + 16 + 16 frames
        assert browser.run("return document.getElementById('problem').textContent") == ""
        assert browser.run("return document.getElementById('video').buffered.length") == 1
        assert browser.run("return document.getElementById('video').webkitAudioDecodedByteCount") > 0
        messages = "[...document.querySelectorAll('#messages li')].map((item) => item.textContent)"
        told = [json.loads(text) for text in browser.run(f"return {messages}")]
        mimes = [each["mime"] for each in told if each["type"] == "media_init"]
        assert len(mimes) == 3
        assert all(mime.endswith(', mp4a.40.2"') for mime in mimes)
        assert browser.complaints() == []


def test_a_session_that_is_held_or_loses_its_server_says_so_and_goes_on(browser: Browser, tmp_path: Path) -> None:
    sampling = "sampling: { num_frames: 24, fps: 24, width: 64, height: 64 }"
    streaming = "streaming: { preset: idle, generation_segment_cap: 3 }"
    (tmp_path / "serve.yaml").write_text(f"{streaming}\ndefault_request: {{ {sampling} }}\n")
    options = (tmp_path / "home", "--config", tmp_path / "serve.yaml", "--port", free_port())
    text = "return document.getElementById('state').textContent"
    with serving(*options) as server:
        until(lambda: server.client.get("/readyz").json()["ready_gpu_workers"])
        browser.open(f"{server.client.base_url}/stream")
        browser.type("input[name=prompt]", "a fox")  # no session is open: the prompt opens one
        browser.click("#send")
        browser.until("return document.getElementById('made').textContent !== '–'")

        batch = server.client.get("/api/v1/batches").json()["batches"][0]["id"]
        server.client.post(f"/api/v1/batches/{batch}/pause").raise_for_status()
        browser.type("input[name=prompt]", "it runs")
        browser.click("#send")
        browser.until(_state("hold"))
        assert "Segment 2 is on hold: the batch was paused" in browser.run(text)
        server.client.post(f"/api/v1/batches/{batch}/resume").raise_for_status()
        browser.until(_state("ready"))

        server.process.kill()
        browser.until(_state("lost"))
        assert "The connection is lost" in browser.run(text)
        browser.type("input[name=prompt]", "it sleeps")
        browser.click("#send")
    with serving(*options):
        browser.until(_state("ended"))
        browser.until("return document.getElementById('video').currentTime > 2.3")
        assert browser.run("return document.getElementById('video').buffered.length") == 1
        assert browser.run("return document.getElementById('video').buffered.end(0)") < 3.1
        assert browser.run("return document.getElementById('problem').textContent") == ""


def test_prompts_that_wait_when_the_server_is_killed_are_sent_again(browser: Browser, tmp_path: Path) -> None:
    sampling = "sampling: { num_frames: 48, fps: 24, width: 64, height: 64 }"
    (tmp_path / "serve.yaml").write_text(
        f"streaming: {{ preset: idle, generation_segment_cap: 5 }}\ndefault_request: {{ {sampling} }}\n"
    )
    options = (tmp_path / "home", "--config", tmp_path / "serve.yaml", "--port", free_port())
    prompts = ["one", "two", "three", "four", "five"]
    with serving(*options) as server:
        until(lambda: server.client.get("/readyz").json()["ready_gpu_workers"])
        browser.open(f"{server.client.base_url}/stream")
        for text in prompts:
            browser.type("input[name=prompt]", text)
            browser.click("#send")
        browser.until(_state("making"))
        server.process.kill()
        browser.until(_state("lost"))
    with serving(*options):
        browser.until(_state("ended"))
        messages = "[...document.querySelectorAll('#messages li')].map((item) => item.textContent)"
        shown = [json.loads(text) for text in browser.run(f"return {messages}.filter((text) => text.endsWith('}}'))")]
        begun = {each["segment_idx"]: each["prompt"] for each in shown if each["type"] == "ltx2_segment_start"}
        assert [begun[index] for index in sorted(begun)] == prompts
