"""Pages as answers: rendered from templates, with the headers that keep what strangers wrote from acting."""

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from db.clips.votes import MAX_STARS
from pipeline.digests import sha256_hex
from pipeline.html import STATIC, environment
from server.auth import Visit
from server.auth.visit import keep_form_cookie

HERE = Path(__file__).parent
ASSETS = {
    path.name: path
    for folder in (STATIC, HERE / "static")
    for path in folder.iterdir()
    if path.suffix in (".css", ".js", ".svg")
}
"""The files that pages load."""
NAVIGATION = (
    ("/", "Batches", "videos.read"),
    ("/submit", "Submit", "batches.write"),
    ("/stream", "Stream", "stream"),
    ("/search", "Search", "videos.read"),
    ("/held", "Held", "videos.read"),
    ("/evals", "Evaluations", "videos.read"),
    ("/models", "Models", "videos.read"),
    ("/workers", "Workers", "metrics.read"),
)
"""The pages that each page leads to: address, name, and the scope without which there is nothing to see."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "private, no-cache",
}


def page(request: Request, visit: Visit | None, template: str, /, status: int = 200, **values: Any) -> Response:
    """Return the answer with a whole page."""
    values = {"visit": visit, "path": request.url.path, **values}
    response = HTMLResponse(_environment().get_template(template).render(values), status, HEADERS)
    keep_form_cookie(request, response)
    return response


def fragment(template: str, macro: str, /, *arguments: Any) -> str:
    """Return what a template's macro makes: a part of a page that changes while it is looked at."""
    return str(getattr(_environment().get_template(template).module, macro)(*arguments))


def asset_url(name: str) -> str:
    """Return the address of a file that pages load, with the digest of what it holds."""
    return f"/static/{name}?v={asset_digest(name)}"


@cache
def asset_digest(name: str) -> str:
    return sha256_hex(ASSETS[name].read_bytes())[:16]


def star_buttons(job_id: str, own: int) -> Markup:
    """Return the stars of a card, of which the own ones are pressed; pressed again, the last of them takes all away.

    They are made here and not in the template: five for each of a page's clips were a third of what it costs.
    """
    return _stars(own).replace("JOB", job_id)


@cache
def _stars(own: int) -> Markup:
    buttons = "".join(
        f'<button form="rate" name="rate" tabindex="-1" value="JOB {0 if stars == own else stars}" '
        f'aria-pressed="{"true" if stars <= own else "false"}" aria-label="{stars} of 5">★</button>'
        for stars in range(1, MAX_STARS + 1)
    )
    return Markup(f'<span class="stars" role="group" aria-label="Stars">{buttons}</span>')


@cache
def _environment() -> Environment:
    made = environment(FileSystemLoader(HERE / "templates"))
    made.globals.update(asset=asset_url, nav=NAVIGATION, star_buttons=star_buttons)
    made.filters.update(moment=_moment, pretty=_pretty, seconds=_seconds)
    return made


def _moment(iso: str | None) -> str:
    """A view's time as people read it; the browser shows it in its own zone."""
    if iso is None:
        return ""
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%S UTC")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 100:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
