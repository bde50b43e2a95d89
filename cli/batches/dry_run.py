"""`--dry-run`: shows what a submission would make and need, and its first jobs."""

from cli import output
from cli import times as times_of
from cli.context import open_history
from pipeline.errors import InputError, Problem
from pipeline.settings import Settings
from service import submission
from service.submission import Prepared
from service.views.estimates import CalibrationOfEstimatesView, EstimateView
from service.views.submissions import DryRunView, NeedView, PlannedJobView

_HOUR_S = 3600
_FIRST = 10
"""Jobs that are shown to people unless they ask for all."""


def require(plan_only: bool, all_jobs: bool) -> None:
    """Raises InputError: --all has no meaning by itself."""
    if all_jobs and not plan_only:
        raise InputError([Problem("goes with --dry-run", field="--all")])


def show(prepared: Prepared, settings: Settings, *, all_jobs: bool, json: bool) -> int:
    """Print the plan; as JSON it has every job."""
    with open_history(settings) as session:
        view = submission.dry_run(session, prepared, settings, most=None if json or all_jobs else _FIRST)
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


def _show_estimate(view: EstimateView) -> None:
    rows = []
    for part in view.parts:
        size = f"{part.width}x{part.height}, {part.num_frames} frames, {part.num_inference_steps} steps"
        times = [None if value is None else f"{value:.2f} s" for value in (part.p50_seconds, part.p90_seconds)]
        rows.append((part.preset, size, part.gpu_type or "unknown", part.segments, *times, part.basis, part.n))
    output.table(("preset", "shape", "GPU", "segments", "p50", "p90", "from", "n"), rows)
    hours = None if view.gpu_seconds is None else f"{view.gpu_seconds / _HOUR_S:.4f}, {view.gpu_seconds:.1f} s"
    done = None if view.finished_at is None else times_of.left(view.finished_at)
    output.facts(
        (
            ("GPU hours", hours),
            ("cost", None if view.cost is None else f"{view.cost:.4g}"),
            ("bytes", view.bytes),
            ("done", done),
            ("not known", view.no_estimate),
        )
    )


def _show_calibration(view: CalibrationOfEstimatesView | None) -> None:
    if view is None or not view.batches:
        return
    output.line(
        f"of the last {view.batches} estimates {view.near} were within 20 % of the GPU time taken; "
        f"truth over estimate: {view.median_ratio:g} (median)"
    )


def _show_summary(view: DryRunView) -> None:
    output.facts((("jobs", view.total), ("inputs", view.inputs), ("fingerprint", view.fingerprint)))
    for need in view.needs:
        output.line(_sentence(need))
    _show_estimate(view.estimate)
    _show_calibration(view.calibration)


def _sentence(need: NeedView) -> str:
    memory = "memory unknown" if need.memory_gib is None else f"{need.memory_gib:g} GiB of GPU memory"
    gpu = ", ".join(need.gpu) or "any GPU type that fits"
    weights = "; its weights are random" if need.random_weights else ""
    jobs = output.jobs(need.jobs) + ("" if need.segments == need.jobs else f" of {need.segments} segments")
    return f"needs preset {need.preset} on {gpu}: {jobs}, {need.seconds:g} s of video, {memory}{weights}"


def _row(planned: PlannedJobView) -> tuple[object, ...]:
    spec = planned.spec
    size = f"{spec['width']}x{spec['height']}"
    return planned.line, planned.variant, spec["seed"], spec["preset"], size, spec["num_frames"], spec["prompt"]
