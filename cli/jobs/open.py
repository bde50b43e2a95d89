"""`vgen open`: opens a clip with the desktop's player."""

import shutil
import sys
from typing import Annotated

import typer

from cli import output
from cli.batches.batch_table import path_of
from cli.completion import jobs_here
from cli.context import open_database, settings_of
from db.clips import jobs, lookup
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.files.object_names import MEDIA_TYPES
from pipeline.states import JobState
from pipeline.wiring import make_storage
from service.exit_codes import ExitCode

_EXPIRES_S = 3600


def open_(
    ctx: typer.Context,
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="A finished job's id or custom_id.", autocompletion=jobs_here)
    ],
    kind: Annotated[
        str, typer.Option("--file", metavar="KIND", help=f"Which file: {', '.join(MEDIA_TYPES)}.")
    ] = "video",
) -> int:
    """Open a finished clip, or its poster, strip or sidecar, with the desktop's program, and print its path."""
    if kind not in MEDIA_TYPES:
        raise InputError([Problem(f"{kind!r} is not one of {', '.join(MEDIA_TYPES)}", field="--file")])
    settings = settings_of(ctx)
    with open_database(settings) as database, database.reading() as session:
        row = lookup.job_named(session, job)
        if row.state is not JobState.SUCCEEDED:
            raise ConflictError(f"job {row.id} is {row.state.value}: only a finished clip is opened")
        file = jobs.artifacts(session, [row.id]).get(row.id, {}).get(kind)
    if file is None:
        raise ConflictError(f"job {row.id}: its {kind} was removed")
    place = path_of(make_storage(settings).url(file.key, expires_s=_EXPIRES_S))
    output.line(place)
    output.flush()
    opener = {"darwin": "open", "win32": "explorer"}.get(sys.platform, "xdg-open")
    if shutil.which(opener) is None:
        output.notice(f"{opener} is not on this machine, so nothing was opened")
        return ExitCode.INTERNAL
    if typer.launch(place) != 0:
        output.notice(f"{opener} could not open it")
        return ExitCode.INTERNAL
    return ExitCode.DONE
