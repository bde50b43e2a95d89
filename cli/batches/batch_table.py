"""The table that ends `run`, `watch` and `submit --wait`: each job, its state and where its clip is."""

from urllib.parse import unquote, urlsplit

from cli import context, output
from db.clips import batches, jobs
from db.session import Database
from pipeline.files.object_names import SUFFIXES
from pipeline.settings import Settings
from pipeline.states import JobState
from pipeline.wiring import make_storage
from service.clip_names import MOST_LINKED, clip_names, link_clips
from service.views.batches import BatchView, batch_view
from service.views.jobs import has_random_weights

_ROWS = 1000
"""More jobs than this are not listed; the notice says how to see them."""


def show(database: Database, settings: Settings, batch_id: str) -> int:
    """Print the batch's table; its exit code (3 while it is unfinished)."""
    storage = make_storage(settings)
    folder = context.folder_of(settings)
    with database.reading() as session:
        batch = batches.get(session, batch_id)
        rows = batches.job_rows(session, batch.id, limit=_ROWS)
        files = jobs.artifacts(session, [job.id for job in rows])
        view = batch_view(batch, batches.counts(session, [batch.id])[batch.id])
    output.line(summary(view))
    links, names = None, {}
    if folder is not None and view.total <= MOST_LINKED:
        links, names = link_clips(folder, database, batch), clip_names(database, batch.id)
    views = []
    for job in rows:
        video = files.get(job.id, {}).get("video")
        # A presigned URL is long and ends; without --urls a store's key says where the clip is.
        where = path_of(storage.url(video.key, expires_s=3600)) if video and folder else video.key if video else ""
        if video and links is not None and (link := links / f"{names[job.id]}.{SUFFIXES['video']}").exists():
            where = str(link)
        problem = f"{job.error_code}: {job.error or ''}" if job.error_code else ""
        views.append((job.id, job.state.value, where or problem))
    output.table(("job", "state", "clip"), views)
    if view.total > _ROWS:
        output.notice(f"the first {_ROWS} of {view.total} jobs; `vgen results {view.id}` shows all")
    if folder is not None and view.counts[JobState.SUCCEEDED]:
        output.line(f"clips are in {links if links is not None else folder / 'media'}")
    elif view.counts[JobState.SUCCEEDED]:
        output.line(f"`vgen results {view.id} --urls` gives URLs")
    if any(has_random_weights(job.spec) for job in rows):
        output.line("The weights of this preset are random: the clips show that the line works, not a picture.")
    if held := view.counts[JobState.HELD]:
        output.line(f"{output.jobs(held)} held: `vgen approve {view.id}` or `vgen reject {view.id}` decides")
    if view.counts[JobState.FAILED]:
        output.line(f"after you have removed the cause: `vgen retry {view.id}`")
    return view.exit_code if view.exit_code is not None else 3


def summary(batch: BatchView) -> str:
    counts = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in batch.counts.items() if n)
    return f"batch {batch.id} ({batch.name}): {', '.join([f'{output.jobs(batch.total)}: {counts}', *notes(batch)])}"


def notes(batch: BatchView) -> list[str]:
    """Return what stops the batch by a person's decision: a pause, a budget, a cancel."""
    return [*(["paused"] if batch.paused else []), *(["over budget"] if batch.over_budget else [])]


def path_of(url: str) -> str:
    """The path of a file:// URL; any other URL as it is."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else url
