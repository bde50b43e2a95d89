"""The server's pages in a browser: what only a browser shows of the forms, the comparison and the wall.

Where axe-core is installed (``make test-clients`` installs it), every page and the static gallery are asked of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from cli.main import run
from db.models import Batch
from db.session import Database
from pipeline.settings import load_settings
from service import keys
from tests.cli_process import until
from tests.clients.browser import Browser, chromium
from tests.clients.run import FOLDER
from tests.serving import Served, serving

AXE = FOLDER / "pages/node_modules/axe-core/axe.min.js"
SMALL = {"preset": "shapes-wan", "num_inference_steps": 2}
PROMPT = "a red circle rises on the sand"
CARD = "document.querySelectorAll('.card')"


def submit(served: Served, *rows: dict[str, object]) -> str:
    text = "\n".join(json.dumps({**SMALL, **row}) for row in rows)
    answer = served.client.post("/api/v1/batches", json={"text": text, "format": "jsonl", "again": True})
    assert answer.status_code == 200, answer.text
    batch_id: str = answer.json()["batch"]["id"]
    until(lambda: served.client.get(f"/api/v1/batches/{batch_id}").json()["batch"]["finished"])
    return batch_id


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home) as server:
        yield server


@pytest.fixture(scope="module")
def batch(served: Served) -> str:
    """Four seeds of one prompt, really made."""
    return submit(served, *({"prompt": PROMPT, "seed": seed} for seed in range(1, 5)))


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def show(window: Browser, served: Served) -> Callable[[str], Browser]:
    """Open a page in a window of a desktop."""

    def opened(path: str) -> Browser:
        window.emulate(1280, 900)
        window.open(str(served.client.base_url).rstrip("/") + path)
        window.complaints()
        return window

    return opened


@pytest.fixture
def axe() -> str:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make test-clients installs it")
    return AXE.read_text("utf-8")


def test_a_wipe_shows_one_clip_over_the_other_up_to_where_it_stands(show: Callable[[str], Browser], batch: str) -> None:
    page = show(f"/compare?job={batch}-000000&job={batch}-000001")
    videos = "[...document.querySelectorAll('[data-compare] video')]"
    page.until(f"return {videos}.every((video) => video.readyState >= 2)")

    def boxes() -> list[list[float]]:
        found: list[list[float]] = page.run(
            f"return {videos}.map((video) => video.getBoundingClientRect()).map((box) => [box.x, box.y, box.width])"
        )
        return found

    apart = boxes()
    assert apart[0][0] < apart[1][0]
    set_to = (
        "const range = document.querySelector('[data-do=wipe]'); range.value = arguments[0];"
        "range.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    page.run(set_to, "40")
    over = boxes()
    assert over[0] == over[1]
    assert page.run(f"return getComputedStyle({videos}[1]).clipPath") == "inset(0px 0px 0px 60%)"
    # Right of the line is the second clip, left of it the first.
    at = (
        "const box = document.querySelector('[data-compare] video').getBoundingClientRect();"
        "const at = document.elementsFromPoint(box.x + box.width * arguments[0], box.y + box.height / 2);"
        f"return {videos}.indexOf(at.find((element) => element.matches('video')))"
    )
    assert [page.run(at, share) for share in (0.3, 0.9)] == [0, 1]
    page.run(set_to, "0")
    assert boxes() == apart
    assert page.complaints() == []


def test_what_was_voted_for_is_said_and_kept(show: Callable[[str], Browser], served: Served, batch: str) -> None:
    page = show(f"/compare?job={batch}-000002&job={batch}-000003")
    page.run("document.body.focus()")
    page.press("2")
    page.until("return document.querySelector('figure:nth-child(2) figcaption').innerText.includes('your choice')")
    (vote,) = served.client.get(f"/api/v1/batches/{batch}/votes").json()["votes"]
    assert vote["preferred"] == f"{batch}-000003"
    page.click("#vote [data-key='0']")
    page.until("return document.querySelector('#vote [data-key=\"0\"].strong')")
    assert page.complaints() == []


def test_stars_and_notes_are_given_on_the_wall_itself(
    show: Callable[[str], Browser], served: Served, batch: str
) -> None:
    page = show(f"/batches/{batch}?sort=file")
    page.run("window.sameDocument = true")
    first = f"{CARD}[0]"
    page.click(".card:first-child .stars button:nth-child(4)")
    pressed = f"return {first}.querySelectorAll('[aria-pressed=true]').length"
    page.until(f"{pressed} === 4")
    page.run(f"{CARD}[1].querySelector('.frame').focus()")
    page.press("5")
    page.until(f"return {CARD}[1].querySelectorAll('[aria-pressed=true]').length === 5")
    page.click(".card:first-child .stars button:nth-child(4)")
    page.until(f"{pressed} === 0")

    page.click(".card:first-child [data-note]")
    page.type("dialog textarea", "the edge <b>is</b> soft")
    page.click("dialog button[value=store]")
    page.until(f"return {first}.querySelector('.noted')?.innerText === 'the edge <b>is</b> soft'")
    assert page.run("return window.sameDocument && location.pathname") == f"/batches/{batch}"
    said = {clip["job_id"]: clip for clip in served.client.get(f"/api/v1/batches/{batch}/votes").json()["clips"]}
    assert (said[f"{batch}-000000"]["stars"], said[f"{batch}-000001"]["stars"]) == (None, 5.0)
    assert said[f"{batch}-000000"]["ratings"][0]["note"] == "the edge <b>is</b> soft"
    assert page.complaints() == []


def test_the_strip_is_scrubbed_along_the_lower_edge(show: Callable[[str], Browser], batch: str) -> None:
    page = show(f"/batches/{batch}?sort=file")
    frame = ".card:nth-child(2) .frame"
    page.point(frame, 0.5, 0.3)
    page.until("return document.querySelector('.card:nth-child(2) video')")
    shown = []
    for across in (0.05, 0.45, 0.95):
        page.point(frame, across, 0.95)
        page.until("return document.querySelector('.card:nth-child(2) .strip')?.style.backgroundImage")
        shown.append(page.run("return document.querySelector('.card:nth-child(2) .strip').dataset.at"))
    assert shown == ["0", "2", "5"]
    assert page.run("return document.querySelectorAll('.card video').length") == 0
    # The picture fills the frame's width or height, as the poster does.
    sizes = page.run(
        "const frame = document.querySelector(arguments[0]).getBoundingClientRect();"
        "const strip = document.querySelector('.card .strip').getBoundingClientRect();"
        "return [frame.width - strip.width, frame.height - strip.height]",
        frame,
    )
    assert min(sizes) < 1.5
    page.point(frame, 0.5, 0.3)
    page.until("return !document.querySelector('.strip') && document.querySelector('.card:nth-child(2) video')")
    assert page.complaints() == []


def test_a_dropped_file_is_read_into_the_form_with_its_format(show: Callable[[str], Browser], batch: str) -> None:
    page = show("/submit")
    page.drop("textarea[name=text]", "night.YML", "prompts:\n- prompt: a green star rises on grass\n")
    page.until("return document.querySelector('textarea[name=text]').value.startsWith('prompts:')")
    assert page.run("return document.querySelector('select[name=format]').value") == "yaml"
    page.click("button[name=dry_run]")
    page.until("return document.body.innerText.includes('Nothing is stored yet')")
    assert page.run("return document.querySelector('textarea[name=text]').value").startswith("prompts:")
    assert page.complaints() == []


def test_a_file_that_is_dropped_beside_the_text_does_not_take_the_page_away(show: Callable[[str], Browser]) -> None:
    page = show("/submit")
    page.run("window.sameDocument = true")
    page.drop("h1", "night.txt", "a fox\n")
    page.until("return document.querySelector('textarea[name=text]').value === 'a fox\\n'")
    assert page.run("return window.sameDocument")


def test_a_clip_is_extended_by_its_form(show: Callable[[str], Browser], batch: str) -> None:
    page = show(f"/jobs/{batch}-000000")
    page.click("summary")
    page.type("textarea[name=prompt]", "it sinks again")
    page.click("form[action$='/extend'] button")
    page.until(f"return location.pathname.startsWith('/jobs/') && !location.pathname.includes('{batch}')")
    assert "it sinks again" in page.run("return document.querySelector('h1').innerText")
    page.until("return document.querySelector('video.clip')?.readyState > 0")
    assert page.run("return document.querySelector('video.clip').duration") > 2.5  # the first clip has 17 frames at 8
    assert page.complaints() == []


def test_what_does_not_come_is_said_where_it_should_be(
    show: Callable[[str], Browser], served: Served, home: Path
) -> None:
    swept = submit(served, *({"prompt": PROMPT, "seed": seed} for seed in (7, 8)))
    for file in (home / "storage/media" / f"{swept}-000000").iterdir():
        file.unlink()
    page = show(f"/batches/{swept}?sort=file")
    page.until(f"return {CARD}[0].innerText.includes('Swept: its files are no longer kept')")
    assert "Swept" not in page.run(f"return {CARD}[1].innerText")
    page = show(f"/jobs/{swept}-000000")
    page.until("return document.querySelector('.job').innerText.includes('Swept: its files are no longer kept')")
    page = show(f"/compare?job={swept}-000000&job={swept}-000001")
    page.until("return document.querySelector('figure').innerText.includes('Swept')")


def test_a_store_that_is_away_is_said_and_the_page_is_there(
    window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given clips that were made, and a store that answers nobody
    with serving(tmp_path) as server:
        made = submit(server, {"prompt": PROMPT, "seed": 1}, {"prompt": PROMPT, "seed": 2})
    monkeypatch.setenv("VGEN_STORAGE", "s3://bucket")
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:1"), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"VGEN_S3_{name}", value)
    monkeypatch.setenv("VGEN_S3_TIMEOUT_S", "1")

    # Then each page is there, and says it where a picture or a video should be
    with serving(tmp_path) as server:
        base = str(server.client.base_url).rstrip("/")
        window.emulate(1280, 900)
        for path, place in ((f"/batches/{made}", ".card"), (f"/jobs/{made}-000000", ".job")):
            window.open(base + path)
            window.until(f"return document.querySelector('{place}')?.innerText.includes('The store is away for now')")


def test_a_session_that_ended_is_said_where_it_shows_and_leads_to_the_sign_in(window: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        made = submit(server, {"prompt": PROMPT, "seed": 1})
        base = str(server.client.base_url).rstrip("/")
        database = Database(load_settings(home=tmp_path).effective_database_url)
        try:
            with database.reading() as session:
                owner = session.scalars(select(Batch.owner)).one()
            created = keys.create(database, name="t", owner=owner, scopes=keys.DEFAULT_SCOPES, expires=None, by="t")
            window.emulate(1280, 900)
            window.open(f"{base}/batches/{made}")
            assert window.run("return location.pathname") == "/sign-in"
            window.type("input[name=key]", created.secret)
            window.click("main form button")
            window.until("return document.querySelector('.poster')?.naturalWidth > 0")
            assert window.run("return location.pathname") == f"/batches/{made}"
            keys.revoke(database, [created.key.id], by="t")
            image = "const image = document.querySelector('.poster'); image.src = image.src.replace('?v=', '?v=0')"
            window.run(image)
            window.until("return document.querySelector('.card').innerText.includes('The session has ended')")
            window.open(f"{base}/batches/{made}")
            assert window.run("return location.pathname") == "/sign-in"
        finally:
            database.close()


def pages_of(batch: str) -> list[str]:
    plain = [
        "/",
        "/submit",
        "/search?q=a",
        "/held",
        "/evals",
        "/models",
        "/workers",
        "/stream",
        "/sign-in",
        "/batches/none",
    ]
    of_batch = [f"/batches/{batch}{query}" for query in ("", "?view=prompts", "?view=grid&by=seed", "?q=none&label=x")]
    clips = "&".join(f"job={batch}-{number:06}" for number in range(4))
    return [*plain, *of_batch, f"/jobs/{batch}-000000", f"/compare?{clips}"]


def test_no_page_has_anything_against_it(show: Callable[[str], Browser], window: Browser, batch: str, axe: str) -> None:
    for path in pages_of(batch):
        show(path)
        for width, dark in ((1280, False), (1280, True), (400, False), (400, True)):
            window.emulate(width, 900, dark=dark)
            assert window.violations(axe) == [], (path, width, dark)
            assert window.run("return document.documentElement.scrollWidth <= innerWidth"), (path, width)


def test_no_gallery_has_anything_against_it(window: Browser, home: Path, batch: str, axe: str) -> None:
    assert run(["--home", str(home), "gallery", batch, "-o", str(home / "wall")]) == 0
    window.open((home / "wall/index.html").as_uri())
    window.until("return document.getElementById('wall').dataset.ready")
    for width, dark in ((1280, False), (1280, True), (400, False), (400, True)):
        window.emulate(width, 900, dark=dark)
        assert window.violations(axe) == [], (width, dark)
