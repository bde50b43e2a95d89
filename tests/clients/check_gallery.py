"""A gallery in a browser, opened from its file: it plays, filters, shows details, and runs nothing of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import run
from db.clips import cancel_retry_approve
from tests.clients.browser import Browser, chromium
from tests.line_helpers import home_of, settings_for, submit, work_off

HOSTILE = '<img src=x onerror="window.hacked = 1"> \'"><script>window.hacked = 1</script> \u202e back'
PROMPTS = (HOSTILE, "a red fox in the snow", "a red boat", "狐狸穿过雪地")
SHOWN = "return [...document.querySelectorAll('#wall .prompt')].map((prompt) => prompt.innerText)"
CARD = "document.querySelectorAll('#wall [data-card]')"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of a batch that was really made: one job was cancelled, one poster is gone."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VGEN_IDLE_STEP_S", "0.01")
        settings = settings_for(tmp_path_factory.mktemp("gallery"))
        environment.setenv("VGEN_HOME", str(settings.home))
        lines = [{"prompt": text, "preset": "idle", "labels": {"text": text[:40]}} for text in PROMPTS]
        with home_of(settings) as database:
            batch = submit(settings, database, [*lines, {"prompt": "never made", "preset": "idle"}])
            with database.transaction() as session:
                cancel_retry_approve.cancel(session, f"{batch}-000004")
            work_off(settings, database, batch)
        pages = settings.home.parent / "a wall #1"
        assert run(["gallery", "-o", str(pages)]) == 0
    (pages / "clips" / f"{batch}-000002.poster.webp").unlink()
    return pages


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        opened.resize(1280, 900)
        yield opened


@pytest.fixture
def wall(browser: Browser, folder: Path) -> Browser:
    browser.open("about:blank")
    browser.open((folder / "index.html").as_uri())
    browser.until("return document.getElementById('wall').dataset.ready")
    return browser


def test_a_prompt_runs_nothing_and_nothing_is_loaded_from_elsewhere(wall: Browser) -> None:
    assert wall.run(SHOWN)[0] == HOSTILE.replace("\u202e", "\ufffd")
    assert wall.run("return window.hacked") is None
    loaded = wall.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(address.startswith("file:") for address in loaded), loaded


def test_what_is_not_there_is_said(wall: Browser) -> None:
    wall.until(f"return {CARD}[2].querySelector('.missing')?.textContent.includes('not there')")
    assert wall.run(f"return {CARD}[4].querySelector('.missing').innerText") == "cancelled"
    assert "vgen retry" in wall.run(f"return {CARD}[4].innerText")


def test_filters_leave_what_fits_and_the_address_holds_them(wall: Browser) -> None:
    wall.type("input[name=text]", "RED")
    assert wall.run(SHOWN) == list(PROMPTS[1:3])
    wall.run("location.reload()")
    wall.until(f"return {CARD}.length === 2")
    wall.run(
        "const form = document.getElementById('filters'); form.reset(); form.elements.label.value = arguments[0];"
        "form.dispatchEvent(new Event('input'))",
        f"text={HOSTILE[:40]}",
    )
    assert wall.run(SHOWN) == [HOSTILE.replace("\u202e", "\ufffd")]
    assert wall.run("return window.hacked") is None


def test_a_card_plays_under_the_pointer_and_gives_its_decoder_back(wall: Browser) -> None:
    wall.hover("#wall [data-card] .prompt")
    wall.until("const video = document.querySelector('#wall video'); return video && video.currentTime > 0")
    assert wall.run("return document.querySelectorAll('video').length") == 1
    wall.hover("h1")
    wall.until("return !document.querySelector('#wall video')")


def test_keys_play_scrub_move_and_open_the_details(wall: Browser) -> None:
    def press(key: str, selector: str = "document.activeElement") -> None:
        script = "dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true, cancelable: true}))"
        wall.run(f"{selector}.{script}", key)

    wall.run(f"{CARD}[1].querySelector('.frame').focus()")
    press(" ")
    wall.until(f"return {CARD}[1].querySelector('video')?.currentTime > 0")
    press(".")
    wall.until(f"return {CARD}[1].querySelector('.strip')?.style.backgroundImage")
    assert wall.run("return document.querySelectorAll('video').length") == 0
    press("ArrowRight")
    assert wall.run(f"return document.activeElement === {CARD}[2].querySelector('.frame')")

    wall.run("document.activeElement.click()")
    details = "document.getElementById('details')"
    assert wall.run(f"return {details}.open && {details}.querySelector('.text').innerText") == PROMPTS[2]
    press("ArrowRight")
    assert wall.run(f"return {details}.querySelector('.text').innerText") == PROMPTS[3]
    wall.until(f"return {details}.querySelector('video').readyState > 0")
    wall.run(f"{details}.close()")
    wall.until(f"return !{details}.querySelector('video').src")


@pytest.mark.parametrize("width", [1280, 400])
def test_no_page_is_wider_than_the_window(wall: Browser, width: int) -> None:
    wall.resize(width, 900)
    assert wall.run("return document.documentElement.scrollWidth <= innerWidth")
