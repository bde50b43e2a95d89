"""Writes a batch's contact sheet, or several if it has many clips."""

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from PIL import Image

from pipeline.encoding.contact_sheet import Tile, draw_sheet
from pipeline.errors import NotFoundError, RetryableError
from pipeline.files.drafts import draft_of
from pipeline.storage.base import Storage
from service.gallery.clips import Clip
from service.gallery.media import AWAY, GONE
from service.views.batches import BatchView

ON_A_SHEET = 100


def write_sheets(path: Path, batch: BatchView, clips: Iterable[Clip], storage: Storage) -> Iterator[Path]:
    """Write PNGs of up to 100 clips each, and yield their paths: ``sheet.png``, ``sheet-2.png``, …"""
    heading = f"{batch.name or batch.id} · {batch.id} · {batch.total} jobs"
    left, number = iter(clips), 1
    while (part := list(islice(left, ON_A_SHEET))) or number == 1:
        of_part = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        picture = draw_sheet(heading, [_tile(clip, storage) for clip in part])
        with draft_of(of_part) as draft:
            picture.save(draft, "PNG", optimize=True)
        yield of_part
        number += 1


def _tile(clip: Clip, storage: Storage) -> Tile:
    poster, missing = None, clip.reason or clip.missing or ""
    if "poster" in clip.files:
        try:
            with Image.open(io.BytesIO(storage.read_bytes(clip.files["poster"].key))) as picture:
                poster = picture.convert("RGB")
        except NotFoundError:
            missing = GONE
        except RetryableError:
            missing = AWAY
        except OSError:
            missing = "the poster is damaged in the store"
    score = [f"{metric} {value:.4g}" for metric, value in list(clip.scores.items())[:1]]
    note = " · ".join([clip.job.state.replace("_", " "), *score, f"seed {clip.job.seed}"])
    return Tile(poster, clip.job.prompt, note, missing)
