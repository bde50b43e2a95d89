"""The results of the operating commands: changes to jobs, pauses, sweeps, checks and settings."""

from typing import Any

from pydantic import Field

from service.views.base import View


class ChangedView(View):
    """What cancel, retry, approve or reject did."""

    changed: list[str] = Field(description="Ids of the jobs that changed.")
    unchanged: list[str] = Field(description="Ids of the jobs to which it did not apply.")
    reasons: dict[str, str] = Field(description="Why not, by id; of the first ten.")


class DeletedView(View):
    """What delete removed."""

    batch_id: str
    jobs: int
    files: int = Field(description="Objects in the store: videos, pictures, sidecars, checkpoints.")
    bytes: int = Field(description="Their size.")


class PausedView(View):
    """What pause or resume did."""

    paused: bool = Field(description="True for pause, false for resume.")
    changed: list[str] = Field(description="Batches and queues that were not so before; * is everything.")
    unchanged: list[str]
    queues: list[str] = Field(description="All that is paused by name now.")


class RemovedView(View):
    """Something that a sweep removed."""

    kind: str = Field(
        description="orphan, checkpoint, media or history (by retention settings), unfinished (an upload), handoff or "
        "model_build."
    )
    name: str
    bytes: int


class SweptView(View):
    """What a sweep removed, or with `--dry-run` would remove."""

    dry_run: bool
    counts: dict[str, int] = Field(description="Counts by kind; of history, rows.")
    bytes: int
    removed: list[RemovedView] = Field(description="The first thousand.")


class RecoveriesView(View):
    """Seconds from a fault to the next attempt at the step that it interrupted; upper bounds."""

    p50: float
    p90: float
    longest: float


class ChaosView(View):
    """What faults on purpose did to a batch."""

    batch_id: str
    seed: int
    faults: dict[str, int] = Field(description="How often each kind was done.")
    jobs: dict[str, int] = Field(description="Counts by state.")
    lost: int = Field(description="Jobs that had not ended when they no longer were waited for.")
    published_twice: int
    recoveries_s: RecoveriesView | None = Field(description="null: no step was interrupted.")
    gpu_s: float = Field(description="Seconds of all attempts at generating.")
    wasted_gpu_s: float = Field(description="Seconds of those attempts that were not recorded.")


class DatabaseCheckView(View):
    database: str = Field(description="URL without the password.")
    problems: list[str]


class CheckView(View):
    """One line of `vgen doctor`."""

    name: str
    result: str = Field(description="ok, warn or fail.")
    message: str
    mend: str | None = Field(description="How to mend it.")


class DoctorView(View):
    checks: list[CheckView]
    exit_code: int


class SettingView(View):
    """One setting in force."""

    name: str = Field(description="The environment variable.")
    value: Any = Field(description="Secrets are masked.")
    source: str = Field(description="argument, environment, .env, vgen.toml or default.")
    description: str


class ConfigView(View):
    mode: str = Field(description="solo or cluster.")
    settings: list[SettingView]
    notices: list[str] = Field(
        default=[],
        description="Notices: what the current folder's files may not set and how to allow it, and misspelt names.",
    )
