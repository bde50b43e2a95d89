"""Pictures of every page and of a gallery, to be looked at: ``python -m tests.clients.screenshots FOLDER``.

Real solo runs with shapes-wan, of 0, 1 and 40 clips, and 10,000 rows of ``bench.pages`` (``--many``): each page at 1280
and 400 pixels, light and dark. ``--homes DIR`` keeps the runs, so that pictures are made again without them.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench.pages import fill
from cli.main import run
from tests.clients.browser import Browser, chromium
from tests.serving import Served, serving

SHAPES = [
    f"a {color} {shape} {moves} on {ground}"
    for color in ("red", "green", "blue", "yellow", "purple")
    for shape, moves, ground in (("circle", "rises", "the sand"), ("star", "moves to the right", "grass"))
]
ODD = "<b>a box</b> \u202egnp.exe with a word that is " + "very" * 40 + " long, 狐狸穿过雪地, ثعلب في الثلج"
SEEN = ((1280, False), (1280, True), (400, False), (400, True))


def lines(count: int) -> str:
    """A prompt file of so many clips: four seeds a prompt, labels, one odd prompt, and one that is held."""
    rows = [
        {"prompt": SHAPES[number // 4 % len(SHAPES)], "seed": number % 4 + 1, "labels": {"shot": f"s{number % 3}"}}
        for number in range(count)
    ]
    if count > 1:
        rows[5] = {**rows[5], "prompt": ODD, "custom_id": "an-odd-one"}
    return "\n".join(json.dumps({"preset": "shapes-wan", "num_inference_steps": 4, **row}) for row in rows)


def made(served: Served, name: str, count: int) -> str:
    """Have clips made; the batch's id."""
    body = {"text": lines(count), "format": "jsonl", "name": name, "score": "checks"}
    answer = served.client.post("/api/v1/batches", json=body)
    assert answer.status_code == 200, answer.text
    batch_id: str = answer.json()["batch"]["id"]
    jobs = [f"{batch_id}-{number:06}" for number in range(count)]
    for job_id in jobs[-3:] if count > 3 else ():
        served.client.post(f"/api/v1/jobs/{job_id}/cancel")
    while not served.client.get(f"/api/v1/batches/{batch_id}").json()["batch"]["finished"]:
        time.sleep(1)
    for number, job_id in enumerate(jobs[: count - 3 if count > 3 else count]):
        if number % 3 == 0:
            rating = {"stars": 1 + number % 5, "note": "The edge is soft; look again." if number % 2 else None}
            served.client.patch(f"/api/v1/jobs/{job_id}/rating", json=rating)
    if count > 1:
        served.client.post("/api/v1/votes", json={"first": jobs[0], "second": jobs[1], "preferred": jobs[1]})
    return batch_id


def paths(batch_id: str | None, count: int) -> Iterator[tuple[str, str]]:
    """Each page, by a name for its pictures."""
    plain = ("submit", "search", "held", "evals", "models", "workers", "stream", "sign-in")
    yield "batches", "/"
    if count <= 1:
        yield from ((name, f"/{name}") for name in plain)
        yield "error", "/batches/none"
        yield "plan", "/submit"
    if batch_id is None:
        return
    yield "wall", f"/batches/{batch_id}"
    yield "job", f"/jobs/{batch_id}-000000"
    if count > 1:
        yield "wall-filtered", f"/batches/{batch_id}?label=shot%3Ds1&sort=stars"
        yield "wall-empty", f"/batches/{batch_id}?q=nothing-has-this"
        yield "prompts", f"/batches/{batch_id}?view=prompts"
        yield "grid", f"/batches/{batch_id}?view=grid&by=seed"
        yield "search-found", "/search?q=a"
        yield "compare-2", f"/compare?job={batch_id}-000000&job={batch_id}-000001"
        yield "compare-4", "/compare?" + "&".join(f"job={batch_id}-{number:06}" for number in range(4))
        yield "job-odd", f"/jobs/{batch_id}-000005"
        yield "job-cancelled", f"/jobs/{batch_id}-{count - 1:06}"


def shoot(browser: Browser, url: str, name: str, folder: Path) -> None:
    """Make the pictures of one page."""
    for width, dark in SEEN:
        browser.emulate(width, 900, dark=dark)
        browser.open(url)
        browser.until("return document.readyState === 'complete'")
        if name.endswith("plan"):
            browser.run("document.querySelector('textarea[name=text]').value = arguments[0]", "\n".join(SHAPES))
            browser.click("button[name=dry_run]")
            browser.until("return document.body.innerText.includes('Nothing is stored yet')")
        browser.run(
            "for (const image of document.images) image.loading = 'eager';"
            "for (const card of document.querySelectorAll('.card')) card.style.contentVisibility = 'visible'"
        )
        browser.until("return [...document.images].every((image) => image.complete)")
        wider = browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        path = folder / f"{name}-{width}-{'dark' if dark else 'light'}.png"
        browser.picture(path)
        sys.stdout.write(f"{path.name} {f'{wider} pixels too wide' if wider > 0 else ''}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--homes", type=Path)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--only", type=int, nargs="*", help="Only the runs of these many clips.")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        homes = options.homes or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vgen-pictures-")))
        browser = stack.enter_context(chromium(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        for count in (0, 1, 40, options.many):
            if options.only is not None and count not in options.only:
                continue
            home, known = homes / str(count), homes / f"{count}.batch"
            home.mkdir(parents=True, exist_ok=True)
            if count > 40 and not known.exists():
                known.write_text(fill(home, count), "utf-8")
            with serving(home) as served:
                if count and not known.exists():
                    known.write_text(made(served, f"shapes of {count}", count), "utf-8")
                batch_id = known.read_text("utf-8") if count else None
                for name, path in paths(batch_id, count):
                    base = str(served.client.base_url).rstrip("/")
                    shoot(browser, base + path, f"{count}-{name}", options.folder)
            if count and run(["--home", str(home), "gallery", "latest", "-o", str(homes / f"{count}.wall")]) == 0:
                shoot(browser, (homes / f"{count}.wall/index.html").as_uri(), f"{count}-gallery", options.folder)


if __name__ == "__main__":
    main()
