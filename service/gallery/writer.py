"""Writes a gallery: pages, the data of their filters, and a manifest of its own files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.digests import sha256_hex
from pipeline.errors import ConflictError, NotFoundError
from pipeline.html import Card, render, static_text
from pipeline.html.texts import visible
from pipeline.storage.base import Storage
from service.gallery.clips import Clip
from service.gallery.facets import Facets, facets_of
from service.gallery.media import Media
from service.views.batches import BatchView

MANIFEST = "gallery.json"
PAGE = 200
"""Cards of a page: more at once are slow to lay out."""
_SCRIPTS: Final = ("gallery.js", "wall.js")
_JS, _HTML = "text/javascript", "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    clips: int
    missing: int
    """Clips that were made and are not in the store, or could not be fetched."""
    files: int


@dataclass(frozen=True, slots=True)
class _Shown:
    """A clip with its card and its record for the filters."""

    card: Card
    record: Mapping[str, Any]
    missing: bool


def own_files(target: Storage, batch_id: str) -> dict[str, tuple[str, int]]:
    """Return digest and size of the files that an earlier gallery of this batch left in ``target``, by name.

    Raises:
        ConflictError: the folder holds something else, which is left as it is.
    """
    try:
        manifest = json.loads(target.read_bytes(MANIFEST))
        owner, files = manifest["batch"], manifest["files"]
    except NotFoundError:
        stranger = next(iter(target.list("")), None)
        if stranger is None:
            return {}
        raise ConflictError(
            f"{stranger.key!r} is there already, which is not a gallery's: name an empty folder"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ConflictError(f"{MANIFEST!r} there does not belong to a gallery: name an empty folder") from None
    if owner != batch_id:
        raise ConflictError(f"the gallery of batch {owner} is there: name another folder")
    return {str(name): (str(digest), int(size)) for name, (digest, size) in files.items()}


def write(target: Storage, batch: BatchView, clips: Iterable[Clip], media: Media, before: Mapping[str, Any]) -> Written:
    """Write the gallery; ``before`` is what ``own_files`` gave. Each file is replaced whole, the first page last."""
    _put_manifest(target, batch.id, before)
    files: dict[str, tuple[str, int]] = {}
    shown = []
    for clip in clips:
        placed = media.place(clip)
        files |= placed.objects
        card = clip.card(placed.addresses, missing=placed.missing)
        record = _record(clip, card, placed.addresses)
        shown.append(_Shown(card, record, bool(placed.missing) or clip.swept))
    for name, (text, media_type) in _texts(batch, shown).items():
        data = text.encode()
        target.put_bytes(name, data, content_type=media_type)
        files[name] = (sha256_hex(data), len(data))
    _put_manifest(target, batch.id, files)
    target.delete_all([name for name in before if name not in files])
    return Written(len(shown), sum(item.missing for item in shown), len(files))


def _put_manifest(target: Storage, batch_id: str, files: Mapping[str, Any]) -> None:
    text = json.dumps({"batch": batch_id, "files": files}, indent=1, sort_keys=True)
    target.put_bytes(MANIFEST, text.encode(), content_type="application/json")


def _texts(batch: BatchView, shown: list[_Shown]) -> dict[str, tuple[str, str]]:
    """Return the pages and scripts with their media types, by name: the first page last."""
    texts = {name: (static_text(name), _JS) for name in _SCRIPTS}
    texts["vgen.css"] = (static_text("vgen.css"), "text/css")
    records = json.dumps([item.record for item in shown], ensure_ascii=False, separators=(",", ":"))
    texts["clips.js"] = (f"vgenClips({records});\n", _JS)
    facets = facets_of(batch, [item.record for item in shown])
    pages = max(1, -(-len(shown) // PAGE))
    for page in range(pages, 0, -1):
        cards = [item.card for item in shown[(page - 1) * PAGE : page * PAGE]]
        texts[_page_name(page)] = (_page(batch, cards, facets, page, pages, len(shown)), _HTML)
    return texts


def _page(batch: BatchView, cards: list[Card], facets: Facets, page: int, pages: int, total: int) -> str:
    return render(
        "gallery.html",
        title=f"{batch.name or batch.id}: {total} clips",
        batch=batch,
        cards=cards,
        blank=Card(id="", prompt="", state=""),
        facets=facets,
        page=page,
        size=PAGE,
        total=total,
        pages=[(number, _page_name(number)) for number in range(1, pages + 1)],
    )


def _page_name(page: int) -> str:
    return "index.html" if page == 1 else f"page-{page}.html"


def _record(clip: Clip, card: Card, addresses: Mapping[str, str]) -> dict[str, Any]:
    """Return what filters and details read of a clip; what is empty is left out."""
    job = clip.job
    values = {
        "id": job.id,
        "custom": job.custom_id,
        "prompt": job.prompt,
        "used": clip.prompt_used if clip.prompt_used != job.prompt else None,
        "prompts": list(clip.prompts),
        "state": job.state,
        "seed": str(job.seed),  # a script's numbers end at 2**53
        "preset": job.preset,
        "size": f"{clip.width}×{clip.height}",
        "frames": clip.frames,
        "labels": dict(job.labels),
        "scores": dict(clip.scores),
        "reason": card.reason,
        "command": card.command,
        "missing": card.missing,
        "strips": card.strip_frames,
        **{kind: addresses.get(kind) for kind in ("video", "poster", "strip", "sidecar")},
    }
    return {name: _visible(value) for name, value in values.items() if value or value == 0}


def _visible(value: Any) -> Any:
    """The same with every text made safe to stand among others, as templates do it."""
    match value:
        case str():
            return visible(value)
        case dict():
            return {visible(key): _visible(item) for key, item in value.items()}
        case list():
            return [_visible(item) for item in value]
    return value
