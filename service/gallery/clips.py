"""What a gallery shows of each job, in the order of the wall: failed ones first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.clips import batches, jobs
from db.evals import runs
from db.models import Job
from db.reading import history
from db.session import Database
from pipeline.encoding.pictures import strip_indices
from pipeline.html import Card
from pipeline.spec import JobSpec
from pipeline.states import JobState
from service.views.clips import FileView, file_views
from service.views.jobs import JobView, job_view

_READ_AT_ONCE = 500
_FIRST: tuple[tuple[JobState, ...], ...] = ((JobState.FAILED, JobState.BLOCKED), (JobState.HELD,))
"""The states that come first on the wall: what went wrong, and what waits for a person."""
_MISSING = {
    JobState.WAITING: "not made yet",
    JobState.IN_FLIGHT: "being made",
    JobState.HELD: "held",
    JobState.FAILED: "failed",
    JobState.BLOCKED: "blocked",
    JobState.CANCELLED: "cancelled",
}
SWEPT = "swept: the clip was removed from the store"


@dataclass(frozen=True, slots=True)
class Clip:
    """One job with all that a card and its details show."""

    job: JobView
    prompt_used: str | None
    """The prompt that the model was given."""
    scores: Mapping[str, float]
    """Scores of the current roll, by metric."""
    files: Mapping[str, FileView]
    """Published files by kind; none where nothing was made, or where it was swept."""
    width: int
    height: int
    frames: int
    prompts: tuple[str, ...] = ()
    """The prompts of a clip of several segments."""

    @property
    def swept(self) -> bool:
        """Whether the clip was made, and its files were removed since."""
        return self.job.state == JobState.SUCCEEDED and "video" not in self.files

    @property
    def missing(self) -> str | None:
        """Why there is no picture."""
        if "video" in self.files:
            return None
        return _MISSING.get(JobState(self.job.state), SWEPT)

    @property
    def reason(self) -> str | None:
        """Why there is no clip, in a sentence; None where it is there, or comes by itself."""
        if self.job.error_code:
            return f"{self.job.error_code}: {self.job.error}" if self.job.error else self.job.error_code
        return "It waits for a person's approval." if self.job.state == JobState.HELD else None

    @property
    def command(self) -> str | None:
        """The command that mends it, where one does."""
        match JobState(self.job.state):
            case JobState.FAILED | JobState.CANCELLED:
                return f"vgen retry {self.job.id}"
            case JobState.HELD:
                return f"vgen approve {self.job.id}"
            case JobState.SUCCEEDED if self.swept:
                return f"vgen rerun {self.job.id}"
        return None

    def card(self, addresses: Mapping[str, str], *, missing: str | None = None) -> Card:
        """Return its card; ``addresses`` of its files by kind, ``missing`` why some of them are not there."""
        video, strip = addresses.get("video"), addresses.get("strip")
        return Card(
            id=self.job.id,
            prompt=self.job.prompt,
            state=self.job.state,
            seed=self.job.seed,
            href=video or f"#clip-{self.job.id}",
            video=video,
            poster=addresses.get("poster"),
            strip=strip,
            strip_frames=len(strip_indices(self.frames)) if strip else 0,
            score=next(iter(self.scores.items()), None),
            labels=self.job.labels,
            reason=self.reason,
            command=self.command or (f"vgen rerun {self.job.id}" if missing and not video else None),
            missing=self.missing or missing,
        )


def clips_of(database: Database, batch_id: str, states: Sequence[JobState] = ()) -> Iterator[Clip]:
    """Yield a batch's clips in the order of the wall, read as they are asked for."""
    chosen = tuple(states) or tuple(JobState)
    first = tuple(state for group in _FIRST for state in group)
    for group in (*_FIRST, tuple(state for state in JobState if state not in first)):
        if wanted := [state for state in group if state in chosen]:
            yield from _of_states(database, batch_id, wanted)


def _of_states(database: Database, batch_id: str, states: Sequence[JobState]) -> Iterator[Clip]:
    after = -1
    while True:
        with database.reading() as session:
            rows = batches.job_rows(session, batch_id, states=states, after_seq=after, limit=_READ_AT_ONCE)
            clips = clips_of_rows(session, rows)
        yield from clips
        if len(rows) < _READ_AT_ONCE:
            return
        after = rows[-1].seq


def clips_of_rows(session: Session, rows: Sequence[Job]) -> list[Clip]:
    """Return the clips of these jobs, in their order."""
    ids = [row.id for row in rows]
    files, prompts = jobs.artifacts(session, ids), history.prompts_used(session, ids)
    scores = runs.of_jobs(session, ids, current=True)
    return [
        _clip(
            row,
            prompts.get(row.id),
            {view.kind: view for view in file_views(files.get(row.id, {}), {})},
            {score.metric: score.score for score in scores.get(row.id, []) if score.score is not None},
        )
        for row in rows
    ]


def _clip(row: Job, prompt_used: str | None, files: Mapping[str, FileView], scores: Mapping[str, float]) -> Clip:
    spec = JobSpec.model_validate(row.spec)
    return Clip(
        job=job_view(row),
        prompt_used=prompt_used,
        scores=scores,
        files=files,
        width=spec.width,
        height=spec.height,
        frames=spec.clip_frames,
        prompts=spec.segment_prompts,
    )
