"""Submits a prompt file: checks it, compares it with earlier batches, estimates and stores it."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.clips import batches
from db.clips.batches import Limits, Submitted
from db.session import Database
from pipeline.prompts import Submission
from pipeline.settings import Settings
from pipeline.spec import BatchOptions
from service.choices import SubmissionChoices
from service.forecast import stuck
from service.limits import limits_of
from service.submission import reuse
from service.submission.notices import notices
from service.submission.options import batch_options
from service.submission.reuse import MadeBefore
from service.submission.storing import store
from service.views.batches import batch_view
from service.views.submissions import ReusedView, SubmittedView


@dataclass(frozen=True, slots=True)
class Prepared:
    """A parsed prompt file and what was chosen for its batch, all checked."""

    jobs: Submission
    choices: SubmissionChoices
    options: BatchOptions
    limits: Limits
    has_name: bool
    """Whether it is a file with a name of its own, which people change and submit again."""

    @property
    def reuses(self) -> bool:
        """Whether only what was not made before is made; of a file with a name that is what nobody needs to ask for."""
        asked = self.choices.reuse
        return not self._made_whole and (self.has_name if asked is None else asked)

    @property
    def _made_whole(self) -> bool:
        return self.choices.again or self.choices.key is not None

    def made_before(self, session: Session, settings: Settings) -> MadeBefore | None:
        """What of it the owner's earlier batches have; None also where every job is to be made whatever there is."""
        if self._made_whole:
            return None
        asked = self.choices.reuse is True
        return reuse.made_before(session, self.jobs, self.options, self.choices.owner or settings.owner, asked=asked)


def prepare(jobs: Submission, choices: SubmissionChoices, settings: Settings, *, has_name: bool) -> Prepared:
    """Check what was chosen for the batch of a prompt file.

    Raises:
        InputError: choices contradict each other, or one is not possible.
    """
    choices.require_possible()
    options = batch_options(choices, settings, jobs.scoring)
    limits = limits_of(choices, settings, (job.spec.gpu for job in jobs.jobs))
    return Prepared(jobs, choices, options, limits, has_name)


def submit(prepared: Prepared, *, settings: Settings, database: Database, name: str | None = None) -> SubmittedView:
    """Store what is to be made of a prompt file as a batch, with an estimate beside it; say what should be known.

    Where everything was made before, the newest batch that has some of it is returned, and nothing is stored.

    Raises:
        InputError: prompts are to be enhanced, and nobody could do it.
        ConflictError: the key was used for another file or other settings.
    """
    with database.reading(one_instant=True) as session:
        made = prepared.made_before(session, settings)
    reused = made if prepared.reuses else None
    stored = _nothing_new(reused) or _store(prepared, reused, settings, database, name)
    before = [] if made is None else [made.sentence(reused=prepared.reuses)]
    unchanged = [] if stored.created else _unchanged_limits(prepared.choices)
    texts = [*before, *unchanged, *notices(prepared.jobs, prepared.options, settings)]
    with database.reading() as session:
        return view_of(session, stored, settings, texts, reused)


def _nothing_new(made: MadeBefore | None) -> Submitted | None:
    if made is None or made.new.jobs:
        return None
    newest = next(iter(made.jobs))
    return Submitted(newest, made.jobs[newest], created=False)


def _store(
    prepared: Prepared, made: MadeBefore | None, settings: Settings, database: Database, name: str | None
) -> Submitted:
    choices = prepared.choices
    return store(
        prepared.jobs if made is None else made.new,
        prepared.options,
        settings=settings,
        database=database,
        name=choices.name or name,
        owner=choices.owner,
        key=choices.key,
        again=choices.again,
        limits=prepared.limits,
        estimated=True,
    )


def _unchanged_limits(choices: SubmissionChoices) -> list[str]:
    if (choices.by, choices.max_gpu_hours, choices.max_cost) == (None, None, None):
        return []
    return ["submitted before: its deadline and budget stay as they were; `vgen budget` changes them"]


def view_of(
    session: Session, stored: Submitted, settings: Settings, texts: list[str], made: MadeBefore | None = None
) -> SubmittedView:
    """What was stored, with sentences on what keeps it from going on before the given ones."""
    batch = batches.get(session, stored.batch_id)
    return SubmittedView(
        batch=batch_view(batch, batches.counts(session, [batch.id])[batch.id]),
        created=stored.created,
        reused=[] if made is None else [ReusedView(batch_id=each, jobs=jobs) for each, jobs in made.jobs.items()],
        notices=[*(item.reason for item in stuck(session, batch, settings)), *texts],
    )
