"""Reads the runs that `vgen eval compare` is given: a score file, a run's id, or ``latest``, the last that ended."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cli import output
from cli.context import open_database
from db.evals import runs
from pipeline.errors import InputError, NotFoundError, Problem
from pipeline.scoring.compare import Run, playable, run_of
from pipeline.scoring.score_file import read_scores
from pipeline.settings import Settings
from pipeline.states import EvalState
from pipeline.wiring import make_storage

LATEST = "latest"
_RUN_ID = re.compile(r"e[0-9a-hjkmnp-tv-z]{13}")
_MOST_RUNS = 500
_LINK_S = 7 * 86_400
"""The seconds that links to clips in an S3 store work: it allows no longer."""


def read_run(source: str, settings: Settings) -> Run:
    """The run of a score file, or of rows. Clips in the store get addresses from which a browser can play them.

    Raises:
        InputError: the file is not a score file, a clip has no entry and seed, or the run has no clips.
        NotFoundError: no run has this id, or there is no run yet.
    """
    if not Path(source).exists() and (source == LATEST or _RUN_ID.fullmatch(source)):
        return _of_rows(source, settings)
    records = read_scores(Path(source))
    if any(record.get("job") and not Path(str(record["video"])).exists() for record in records):
        records = _addressed(records, settings)
    return run_of(records, source)


def _of_rows(source: str, settings: Settings) -> Run:
    with open_database(settings) as database, database.transaction() as session:
        if source == LATEST:
            runs.settle(session)  # whoever comes first: the dispatcher does it too
            # A run that scored an earlier night again is about that night's clips, which are not the latest ones.
            of_clips = [run for run in runs.runs(session, limit=_MOST_RUNS) if run.kind != runs.RESCORE]
            newest = next((run for run in of_clips if run.state is not EvalState.OPEN), None)
            if newest is None and of_clips:
                raise NotFoundError(f"no evaluation run has ended yet: {of_clips[0].id} is still open")
            if newest is None:
                raise NotFoundError(
                    "there is no evaluation run yet: `vgen eval run BATCH` or `vgen eval suite` make one"
                )
            row = newest
        else:
            row = runs.get_run(session, source)
        run_id, state, records = row.id, row.state, runs.records_of(session, row.batch_id)
    if state is not EvalState.COMPLETE:
        output.notice(f"evaluation run {run_id} is {state.value}")
    if not records:
        raise InputError([Problem(f"evaluation run {run_id} has no published clips yet")])
    return run_of(_addressed(records, settings), run_id)


def _addressed(records: Sequence[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    return playable(records, partial(make_storage(settings).url, expires_s=_LINK_S), settings.serve.public_url)
