"""FastVideo's playground in a browser: its flow from a page of another site, and, where its files are, itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from tests.clients.browser import Browser, chromium
from tests.clients.pages import PlaygroundFiles, serving_files
from tests.serving import Served, serving

HERE = Path(__file__).parent
PLAYED = """
const video = document.querySelector("video");
if (video.error) throw new Error(video.error.message);
return video.currentTime > 0.5 && video.videoWidth;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page, of an origin that the server lets in."""
    with ExitStack() as stack:
        origin = stack.enter_context(serving_files(HERE))
        served = stack.enter_context(serving(tmp_path_factory.mktemp("home"), "--allow-origin", origin))
        browser.open(f"{origin}/playground.html?server={_address(served)}")
        browser.until("return document.querySelector('#state').textContent === 'ok'")
        yield browser


def _address(served: Served) -> str:
    return str(served.client.base_url).rstrip("/")


def _ask_for(page: Browser, prompt: str, model: str, picture: Path | None = None) -> None:
    page.run("document.querySelector('form').reset(); document.querySelector('#model').value = ''")
    page.type("#prompt", prompt)
    page.type("#model", model)
    if picture is not None:
        page.type("#picture", str(picture))
    page.click("#generate")


def test_a_page_of_an_allowed_site_lists_posts_polls_and_plays(page: Browser) -> None:
    _ask_for(page, "a fox & <b>snow</b>", "idle")

    page.until("return document.querySelector('#jobs').textContent === 'completed a fox & <b>snow</b>'")
    page.run("return document.querySelector('video').play()")
    assert page.until(PLAYED) == 32
    assert page.complaints() == []


def test_a_page_uploads_a_picture_and_reads_why_it_is_refused(page: Browser, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "fox.png")
    _ask_for(page, "a fox", "idle", tmp_path / "fox.png")

    error = page.until("return document.querySelector('#error').textContent")
    assert "input_reference" in error
    assert "idle" in error


def test_a_page_of_a_site_that_is_not_allowed_reads_nothing(browser: Browser, tmp_path: Path) -> None:
    with serving_files(HERE) as origin, serving(tmp_path) as served:
        browser.open(f"{origin}/playground.html?server={_address(served)}")

        error = browser.until("return document.querySelector('#error').textContent")
        assert "Failed to fetch" in error
        browser.complaints()


def test_fastvideos_own_playground_makes_and_plays_a_video(browser: Browser, tmp_path: Path) -> None:
    static = os.environ.get("FASTVIDEO_STATIC")
    if static is None:
        pytest.skip("FASTVIDEO_STATIC does not name fastvideo/entrypoints/openai/static of a checkout of FastVideo")
    with serving(tmp_path) as served, PlaygroundFiles(Path(static), _address(served), "idle").serving() as origin:
        browser.open(f"{origin}/playground/")
        browser.until("return !document.querySelector('#generate').disabled")
        browser.type("#prompt", "a fox")
        browser.click("#generate")
        browser.until("return document.querySelector('#job-state').dataset.status === 'completed'")
        browser.run("document.querySelector('video').muted = true; return document.querySelector('video').play()")
        assert browser.until("return document.querySelector('video').currentTime > 0.1")
        assert browser.run("return document.querySelector('#error').hidden") is True
