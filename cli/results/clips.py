"""`vgen results`: lists the clips of a batch, as URLs, files or JSON."""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from json import dumps, loads
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from cli import output
from cli.batches.batch_table import path_of, summary
from cli.batches.status import states_of
from cli.context import folder_of, open_database, settings_of
from cli.options import BatchArgument, Json
from db.clips import batches, jobs
from db.evals import runs
from db.models import ArtifactRow, Job, Score
from db.reading import history
from db.session import Database
from pipeline.errors import InputError, Problem, RetryableError
from pipeline.files.digests import stream_sha256
from pipeline.files.drafts import draft_of
from pipeline.files.object_names import SUFFIXES
from pipeline.files.regular import open_regular_file
from pipeline.settings import Settings
from pipeline.states import JobState
from pipeline.storage import FolderStorage
from pipeline.storage.base import Storage
from pipeline.wiring import make_storage
from service.clip_names import clip_names
from service.views.batches import BatchView, ResultsView, batch_view
from service.views.clips import FileView, file_views
from service.views.jobs import ResultView, job_view

_Found: TypeAlias = "tuple[Job, dict[str, ArtifactRow], str | None, list[Score]]"
"""A job, its published files, the prompt that was used, and its scores."""
_MANIFEST = "manifest.jsonl"
_PAGE = 500
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_EXPIRES_S = 7 * 86_400
"""Signature version 4 allows no longer."""


def results(
    ctx: typer.Context,
    batch: BatchArgument = "latest",
    urls: Annotated[bool, typer.Option("--urls", help="Show URLs that a plain GET can fetch.")] = False,
    expires: Annotated[
        str, typer.Option("--expires", help="Validity of the URLs: seconds, or 30m, 12h, 7d; at most 7 days.")
    ] = "12h",
    download: Annotated[
        Path | None,
        typer.Option(
            "--download",
            metavar="DIR",
            help="Copy the clips, their pictures and sidecars, and a manifest.jsonl into this folder.",
        ),
    ] = None,
    state: Annotated[list[str] | None, typer.Option("--state", help="Only jobs in this state; repeatable.")] = None,
    json: Json = False,
) -> int:
    """Show the paths or URLs of a batch's clips, or download the clips."""
    expires_s = seconds(expires)
    states = states_of(state or [])
    settings = settings_of(ctx)
    storage = make_storage(settings)
    with open_database(settings) as database:
        with database.reading() as session:
            row = batches.get(session, batch)
            view = batch_view(row, batches.counts(session, [row.id])[row.id])
        views = [_result(storage, item, expires_s if urls else None) for item in _jobs(database, view.id, states)]
        if download is not None:
            names = clip_names(database, view.id)
            views = list(_downloaded(storage, views, names, download))
    folder = folder_of(settings)
    if json:
        shown_folder = None if folder is None else str(folder / "media")
        output.as_json(ResultsView(batch=view, folder=shown_folder, results=views))
    else:
        _show(view, views, settings, urls, download)
    return 0


def seconds(text: str) -> int:
    """``3600``, ``30m``, ``12h`` or ``7d`` as seconds. Raises InputError, also over 7 days."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if match is None or int(match[1]) == 0:
        raise InputError([Problem(f"{text!r} is not a duration such as 3600, 30m, 12h or 7d", field="--expires")])
    value = int(match[1]) * _UNITS[match[2]]
    if value > _MAX_EXPIRES_S:
        raise InputError([Problem(f"{text!r} is over 7 days, the longest that S3 allows", field="--expires")])
    return value


def _jobs(database: Database, batch_id: str, states: list[JobState]) -> Iterator[_Found]:
    after = -1
    while True:
        with database.reading() as session:
            rows = batches.job_rows(session, batch_id, states=states, after_seq=after, limit=_PAGE)
            ids = [row.id for row in rows]
            files, prompts = jobs.artifacts(session, ids), history.prompts_used(session, ids)
            scores = runs.of_jobs(session, ids, current=True)
        for row in rows:
            yield row, files.get(row.id, {}), prompts.get(row.id), scores.get(row.id, [])
        if len(rows) < _PAGE:
            return
        after = rows[-1].seq


def _result(storage: Storage, item: _Found, expires_s: int | None) -> ResultView:
    job, artifacts, prompt, scores = item
    urls = {}
    if expires_s is not None or isinstance(storage, FolderStorage):
        urls = {row.key: storage.url(row.key, expires_s=expires_s or 1) for row in artifacts.values()}
    return ResultView(
        job=job_view(job),
        prompt_used=prompt,
        scores={score.metric: score.score for score in scores},
        files=file_views(artifacts, urls),
        downloaded=None,
    )


def _downloaded(storage: Storage, views: list[ResultView], names: dict[str, str], folder: Path) -> Iterator[ResultView]:
    folder.mkdir(parents=True, exist_ok=True)
    lines = _manifest(folder)
    before = {str(loads(line)["file"]): job_id for job_id, line in lines.items()}
    for result in views:
        video = next((file for file in result.files if file.kind == "video"), None)
        if video is None:
            yield result
            continue
        stem = _own_stem(folder, names[result.job.id], result, video, before)
        for file in result.files:
            path = folder / f"{stem}.{SUFFIXES[file.kind]}"
            if _sha256(path) != file.sha256:
                _fetch(storage, file, path)
        path = folder / f"{stem}.{SUFFIXES[video.kind]}"
        done = result.model_copy(update={"downloaded": str(path.absolute())})
        lines[result.job.id] = done.model_dump_json(exclude={"downloaded"})[:-1] + f',"file":{dumps(path.name)}}}'
        yield done
    with draft_of(folder / _MANIFEST) as draft:
        draft.write_text("".join(f"{line}\n" for line in lines.values()), "utf-8")


def _manifest(folder: Path) -> dict[str, str]:
    """The lines of the manifest that earlier downloads left, by job: those of clips that are still there."""
    lines: dict[str, str] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (folder / _MANIFEST).read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                entry = loads(line)
                if (folder / str(entry["file"])).exists():
                    lines[str(entry["job"]["id"])] = line
    return lines


def _own_stem(folder: Path, name: str, result: ResultView, video: FileView, before: Mapping[str, str]) -> str:
    """The name without ending; with the batch's id where another batch's clip, or another file, has the plain one."""
    path = folder / f"{name}.{SUFFIXES[video.kind]}"
    owner = before.get(path.name)
    if not path.exists() or owner == result.job.id or (owner is None and _sha256(path) == video.sha256):
        return name
    return f"{name}-{result.job.id.partition('-')[0]}"


def _fetch(storage: Storage, video: FileView, path: Path) -> None:
    """Download under another name, check the bytes, then rename: a file that is there is whole."""
    with draft_of(path) as draft:
        storage.download(video.key, draft)
        if (arrived := _sha256(draft)) != video.sha256:
            raise RetryableError(
                f"{video.key}: the bytes that arrived have sha256 {arrived}, recorded is {video.sha256}",
                code="storage_corrupt",
            )


def _sha256(path: Path) -> str | None:
    """Return the digest; None when there is no such file. Raises InputError where something else has the name."""
    if not path.exists():
        return None
    with open_regular_file(path, what="what is there already") as file:
        return stream_sha256(file)[0]


def _show(batch: BatchView, views: list[ResultView], settings: Settings, urls: bool, download: Path | None) -> None:
    output.notice(summary(batch))
    rows = []
    for result in views:
        video = next((file for file in result.files if file.kind == "video"), None)
        where = "" if video is None else video.key
        if result.downloaded is not None:
            where = result.downloaded
        elif video is not None and video.url is not None:
            where = video.url if urls else path_of(video.url)
        job = result.job
        rows.append((job.id, job.line, job.seed, job.state, where or (job.error_code or "")))
    output.table(("job", "line", "seed", "state", "clip"), rows)
    if download is not None:
        count = sum(1 for result in views if result.downloaded)
        output.notice(f"{count} clips and manifest.jsonl are in {download.absolute()}")
    if any(result.job.random_weights for result in itertools.islice(views, 1000)):
        output.notice("The weights of this preset are random: the clips are not pictures of anything.")
