"""Stores a submission: its inputs in the store, its batch and jobs as rows, all or nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy.orm import Session

from db.clips import batches
from db.clips.batches import Limits, Submitted
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.prompts import Submission
from pipeline.prompts.submission import alike
from pipeline.settings import Settings
from pipeline.spec import BatchOptions
from pipeline.storage.inputs import put_input
from pipeline.wiring import make_storage
from pipeline.work import ContinuationRef
from service.submission import estimate


def store(
    submission: Submission,
    options: BatchOptions,
    *,
    settings: Settings,
    database: Database,
    name: str | None = None,
    owner: str | None = None,
    key: str | None = None,
    again: bool = False,
    limits: Limits | None = None,
    states: Mapping[int, ContinuationRef] | None = None,
    also: Callable[[Session, str], None] | None = None,
    estimated: bool = False,
) -> Submitted:
    """Put the inputs into the store, then the batch and its jobs into the database, all or nothing.

    ``estimated`` keeps an estimate beside a new batch, which reads some of the history.

    ``also`` is called with the batch's id in the transaction that stores a new batch; what it raises undoes that.

    Raises InputError: prompts are to be enhanced, and nobody could do it.
    """
    require_enhancer(submission, settings)
    _put_inputs(submission, settings)
    expected = None
    if estimated:
        with database.reading() as session:
            expected = estimate.of_submission(session, submission, settings)
    with database.transaction() as session:
        stored = batches.submit(
            session,
            submission,
            name=name or Path(submission.source_name).stem,
            owner=owner or settings.owner,
            options=options,
            key=key,
            again=again,
            limits=limits,
            states=states,
        )
        if expected is not None and stored.created:
            estimate.keep(session, stored.batch_id, expected)
        if also is not None and stored.created:
            also(session, stored.batch_id)
    # A sweep that looked before the commit may have deleted after it. From now on the rows keep it away.
    _put_inputs(submission, settings, only_missing=True)
    return stored


def require_enhancer(submission: Submission, settings: Settings) -> None:
    """Refuse prompts that are to be enhanced where no provider is set, and this machine's settings are its workers'.

    Raises:
        InputError: with the first line that asks for it.
    """
    if settings.enhance.providers or not settings.solo:
        return
    for job, _ in alike(submission.jobs):
        for field in ("enhance", "auto_extend"):
            if getattr(job.spec, field):
                message = "prompts cannot be enhanced here: VGEN_ENHANCE_PROVIDERS names no provider"
                raise InputError([Problem(message, line=job.line, field=field)])


def _put_inputs(submission: Submission, settings: Settings, *, only_missing: bool = False) -> None:
    if not submission.inputs:
        return
    storage = make_storage(settings)
    for item in submission.inputs.values():
        # At first also where it is there already: an old object that no row names yet is a sweep's.
        if not only_missing or storage.stat(item.ref.key) is None:
            put_input(storage, item)
