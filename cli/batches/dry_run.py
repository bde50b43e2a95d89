"""`--dry-run`: what a submission would make and what it needs, then its first jobs."""

from cli import output
from pipeline.errors import InputError, Problem
from pipeline.prompts import Submission
from pipeline.settings import Settings
from service import submission
from service.views.submissions import DryRunView, NeedView, PlannedJobView

_FIRST = 10
"""Jobs that are shown to people unless they ask for all."""


def require(plan_only: bool, all_jobs: bool) -> None:
    """Raises InputError: --all has no meaning by itself."""
    if all_jobs and not plan_only:
        raise InputError([Problem("goes with --dry-run", field="--all")])


def show(parsed: Submission, settings: Settings, *, all_jobs: bool, json: bool) -> int:
    """Print the plan; as JSON it has every job."""
    view = submission.dry_run(parsed, settings, most=None if json or all_jobs else _FIRST)
    if json:
        output.as_json(view)
        return 0
    _show_summary(view)
    output.table(
        ("line", "variant", "seed", "preset", "size", "frames", "prompt"), [_row(planned) for planned in view.jobs]
    )
    if len(view.jobs) < view.total:
        output.line(f"the first {len(view.jobs)} of {view.total} jobs; --all shows every one")
    for text in view.notices:
        output.notice(text)
    output.line("nothing was stored")
    return 0


def _show_summary(view: DryRunView) -> None:
    output.facts((("jobs", view.total), ("inputs", view.inputs), ("fingerprint", view.fingerprint)))
    for need in view.needs:
        output.line(_sentence(need))


def _sentence(need: NeedView) -> str:
    memory = "memory unknown" if need.memory_gib is None else f"{need.memory_gib:g} GiB of GPU memory"
    gpu = ", ".join(need.gpu) or "any GPU type that fits"
    weights = "; its weights are random" if need.random_weights else ""
    jobs = f"{need.jobs} jobs" if need.segments == need.jobs else f"{need.jobs} jobs of {need.segments} segments"
    return f"needs preset {need.preset} on {gpu}: {jobs}, {need.seconds:g} s of video, {memory}{weights}"


def _row(planned: PlannedJobView) -> tuple[object, ...]:
    spec = planned.spec
    size = f"{spec['width']}x{spec['height']}"
    return planned.line, planned.variant, spec["seed"], spec["preset"], size, spec["num_frames"], spec["prompt"]
