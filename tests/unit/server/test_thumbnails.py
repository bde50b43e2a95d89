"""Small posters: made of the stored one, kept within bounds, and said where there is none."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import update

from db.models import ArtifactRow
from pipeline.digests import sha256_hex
from pipeline.errors import NotFoundError
from pipeline.storage import FolderStorage
from server.thumbnails import WIDTH, Thumbnails
from tests.db_fixtures import sqlite_template
from tests.unit.server.test_pages import HARMLESS, Site, made, open_site

__all__ = ["open_site", "sqlite_template"]


def poster(width: int, height: int, color: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), color).save(out, "JPEG")
    return out.getvalue()


@dataclass
class Store:
    """The posters of some clips in a folder."""

    storage: FolderStorage
    rows: list[ArtifactRow] = field(default_factory=list)

    def put(self, data: bytes) -> ArtifactRow:
        key = f"media/{len(self.rows)}/poster.jpg"
        self.storage.put_bytes(key, data, content_type="image/jpeg")
        self.rows.append(ArtifactRow(job_id=f"{len(self.rows)}", key=key, sha256=sha256_hex(data), size=len(data)))
        return self.rows[-1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(FolderStorage(tmp_path))


def size_of(data: bytes | None) -> tuple[str | None, tuple[int, int]]:
    assert data is not None
    with Image.open(io.BytesIO(data)) as picture:
        return picture.format, picture.size


@pytest.mark.parametrize(
    ("size", "small"), [((832, 480), (320, 185)), ((128, 64), (128, 64)), ((480, 832), (320, 555))]
)
def test_a_small_poster_is_webp_of_at_most_that_width_and_never_enlarged(
    store: Store, size: tuple[int, int], small: tuple[int, int]
) -> None:
    form, made_size = size_of(Thumbnails().of(store.storage, store.put(poster(*size))))
    assert form == "WEBP"
    assert made_size[0] == small[0] <= WIDTH
    assert abs(made_size[1] - small[1]) <= 1


def test_what_was_made_is_kept_and_the_oldest_is_forgotten(store: Store) -> None:
    first, second, third = (store.put(poster(64, 36, color)) for color in ("red", "green", "blue"))
    kept = Thumbnails(kept_bytes=len(Thumbnails().of(store.storage, first) or b"") * 2 + 10)
    for row in (first, second, first, third):
        assert kept.of(store.storage, row) is not None
    for row in store.rows:
        store.storage.delete(row.key)

    assert kept.of(store.storage, first) is not None
    with pytest.raises(NotFoundError):
        kept.of(store.storage, second)


@pytest.mark.parametrize("data", [b"no picture", poster(64, 36)[:200]], ids=["text", "cut off"])
def test_what_cannot_be_made_small_is_shown_as_it_is(store: Store, data: bytes) -> None:
    assert Thumbnails().of(store.storage, store.put(data)) is None


def test_a_wall_shows_small_posters_and_a_clip_its_own(open_site: Callable[..., Site]) -> None:
    site = open_site()
    batch_id, job_id = made(site, HARMLESS)
    data = poster(832, 480)
    digest = sha256_hex(data)
    row = {"job_id": job_id, "kind": "poster", "roll": 1, "key": f"media/{job_id}/{digest}.poster.jpg"}
    with site.database.transaction() as session:
        facts = {"sha256": digest, "size": len(data), "media_type": "image/jpeg", "created_at": 0}
        session.add(ArtifactRow(**row, **facts))
    folder = FolderStorage(site.settings.home / "storage")
    folder.put_bytes(str(row["key"]), data, content_type="image/jpeg")
    browser = site.browser()

    address = f"/media/{job_id}/thumbnail?v={digest[:16]}"
    assert f'src="{address}"' in browser.get(f"/batches/{batch_id}").text
    assert f'poster="/media/{job_id}/poster?v={digest[:16]}"' in browser.get(f"/jobs/{job_id}").text
    small = browser.get(address)
    assert (small.status_code, small.headers["content-type"]) == (200, "image/webp")
    assert "immutable" in small.headers["cache-control"]
    assert len(small.content) < len(data)

    with site.database.transaction() as session:
        session.execute(update(ArtifactRow).where(ArtifactRow.kind == "poster").values(sha256="b" * 64))
    folder.delete(str(row["key"]))
    assert browser.get(f"/media/{job_id}/thumbnail").status_code == 404
