"""`vgen gallery`: pages of a batch in a folder, what is shown of clips that are not there, and what is left alone."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from cli.batches import gallery
from pipeline.errors import RetryableError
from pipeline.states import JobState
from pipeline.storage import FolderStorage
from service.gallery import Clip, clips_of, writer
from tests.unit.cli.conftest import Home, Vgen


class _Page(HTMLParser):
    """Cards of a page in their order, with the texts of each, and every address."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.cards: list[dict[str, Any]] = []
        self.addresses: list[str] = []
        self._in_template = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self._in_template |= tag == "template"
        if tag == "article" and not self._in_template:
            self.cards.append({**attributes, "text": ""})
        if not self._in_template:
            self.addresses += [value for name, value in attrs if name in ("src", "href", "data-video") and value]

    def handle_endtag(self, tag: str) -> None:
        self._in_template &= tag != "template"

    def handle_data(self, data: str) -> None:
        if self.cards and not self._in_template:
            self.cards[-1]["text"] += data


@pytest.fixture
def mixed(home: Home) -> Home:
    """A clip that is there, one that failed, one that is gone from the store."""
    succeeded, failed, gone = home.job_ids
    home.succeed(succeeded)
    home.end(failed, JobState.FAILED, error_code="out_of_memory", error="it needs 9 GiB <more>")
    home.succeed(gone)
    for path in (home.folder / "storage" / "media" / gone).iterdir():
        path.unlink()
    return home


def _texts(home: Home, page: _Page) -> dict[str, str]:
    assert [card["id"].removeprefix("clip-") for card in page.cards] == [home.job_ids[index] for index in (1, 0, 2)]
    return {card["id"].removeprefix("clip-"): card["text"] for card in page.cards}


def test_what_failed_comes_first_with_its_reason_and_the_command_that_mends_it(
    vgen: Vgen, mixed: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "a wall"
    said = vgen("gallery", "-o", folder)

    assert said.code == 0, said.err
    assert said.out == f"3 clips: {folder}/index.html\n"
    assert "clips that the store does not have, or cannot give now: 1;" in said.err
    page = _Page(folder / "index.html")
    texts = _texts(mixed, page)
    succeeded, failed, gone = mixed.job_ids
    assert "out_of_memory: it needs 9 GiB <more>" in texts[failed]
    assert f"vgen retry {failed}" in texts[failed]
    assert "not in the store any more" in texts[gone]
    assert f"vgen rerun {gone}" in texts[gone]
    assert (folder / f"clips/{succeeded}.mp4").read_bytes() == b"the clip of " + succeeded.encode()
    local = [unquote(address) for address in page.addresses if not address.startswith("#")]
    assert all((folder / address).is_file() for address in local), local
    records = json.loads((folder / "clips.js").read_text("utf-8").removeprefix("vgenClips(").removesuffix(");\n"))
    assert [(record["id"], record["state"]) for record in records] == [
        (failed, "failed"), (succeeded, "succeeded"), (gone, "succeeded"),
    ]  # fmt: skip


def test_a_gallery_replaces_its_own_files_and_nothing_else(vgen: Vgen, mixed: Home, tmp_path: Path) -> None:
    folder, strange = tmp_path / "wall", tmp_path / "strange"
    assert vgen("gallery", "-o", folder).code == 0
    video = folder / f"clips/{mixed.job_ids[0]}.mp4"
    before = video.stat().st_mtime_ns
    (folder / "notes.txt").write_text("mine", "utf-8")
    assert vgen("gallery", "-o", folder, "--state", "succeeded").code == 0
    assert video.stat().st_mtime_ns == before  # not copied again
    assert len(_Page(folder / "index.html").cards) == 2
    assert vgen("gallery", "-o", folder, "--state", "failed").code == 0
    assert not video.exists()
    assert (folder / "notes.txt").read_text("utf-8") == "mine"

    strange.mkdir()
    (strange / "index.html").write_text("mine", "utf-8")
    said = vgen("gallery", "-o", strange)
    assert said.code == 2, said.err
    assert "'index.html'" in said.err
    assert [path.name for path in strange.iterdir()] == ["index.html"]

    other = vgen("submit", mixed.file, "--again", "--json").json["batch"]["id"]
    said = vgen("gallery", other, "-o", folder)
    assert said.code == 2, said.err
    assert mixed.batch_id in said.err


def test_a_store_that_is_away_is_asked_once(
    vgen: Vgen, mixed: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = FolderStorage.read_bytes

    def away(storage: FolderStorage, key: str) -> bytes:
        if storage.root != mixed.folder / "storage":
            return read(storage, key)
        asked.append(key)
        raise RetryableError("no route to the store")

    monkeypatch.setattr(FolderStorage, "read_bytes", away)
    said = vgen("gallery", "-o", tmp_path / "wall")

    assert said.code == 0, said.err
    assert len(asked) == 1
    texts = _texts(mixed, _Page(tmp_path / "wall" / "index.html"))
    noted = [job for job, text in texts.items() if "could not be reached" in text]
    assert noted == [mixed.job_ids[0], mixed.job_ids[2]]


def test_a_solo_run_links_to_the_clips_where_they_are(vgen: Vgen, mixed: Home, tmp_path: Path) -> None:
    database = mixed.database()
    vgen("status")  # reads the settings
    gallery.show(database, mixed.settings, [mixed.batch_id])
    database.close()

    folder = mixed.folder / "gallery" / mixed.batch_id
    moved = mixed.folder.rename(tmp_path / "moved home")
    page = _Page(moved / "gallery" / mixed.batch_id / "index.html")
    assert "not in the store any more" in _texts(mixed, page)[mixed.job_ids[2]]
    (video,) = [card["data-video"] for card in page.cards if "data-video" in card]
    assert (moved / "gallery" / folder.name / video).resolve().read_bytes().startswith(b"the clip of")


def test_many_clips_are_on_pages_of_their_own(
    vgen: Vgen, mixed: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PAGE", 2)
    assert vgen("gallery", "-o", tmp_path / "wall").code == 0
    pages = [_Page(tmp_path / "wall" / name) for name in ("index.html", "page-2.html")]
    assert [len(page.cards) for page in pages] == [2, 1]
    assert "page-2.html" in pages[0].addresses
    assert "index.html" in pages[1].addresses


def test_a_contact_sheet_has_a_tile_for_every_clip(vgen: Vgen, mixed: Home, tmp_path: Path) -> None:
    said = vgen("gallery", "--sheet", tmp_path / "sheet.png")
    assert (said.code, said.out) == (0, f"{tmp_path / 'sheet.png'}\n")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 320
        assert len(sheet.convert("RGB").getcolors(1 << 20) or ()) > 2

    assert vgen("gallery", "--sheet", tmp_path / "sheet.jpg").code == 2
    assert vgen("gallery", "--sheet", tmp_path / "no" / "sheet.png").code == 2
    assert vgen("gallery", "--sheet", tmp_path / "x.png", "-o", tmp_path / "wall").code == 2


@pytest.mark.parametrize("out", ["http://host/x", "s3://ab", "file://host/x"])
def test_a_place_that_cannot_be_is_refused_by_the_options_name(vgen: Vgen, mixed: Home, out: str) -> None:
    said = vgen("gallery", "-o", out)
    assert said.code == 2
    assert said.err.startswith("vgen: -o: ")


def test_every_state_says_why_there_is_no_picture(mixed: Home) -> None:
    database = mixed.database()
    clips = list(clips_of(database, mixed.batch_id))
    database.close()
    for clip in clips:
        for state in JobState:
            other = clip.job.model_copy(update={"state": state.value})
            bare = Clip(other, None, {}, {}, clip.width, clip.height, clip.frames)
            assert bare.missing
            assert (bare.command is None) == (state in (JobState.WAITING, JobState.IN_FLIGHT, JobState.BLOCKED))
