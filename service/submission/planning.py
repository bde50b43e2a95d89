"""Plans a submission: what it would make, need and take, and whether any worker could make it."""

from collections.abc import Iterable, Mapping
from itertools import islice

from sqlalchemy.orm import Session

from pipeline.policy.routes import GpuCapacity, fits
from pipeline.presets import Library, load_library
from pipeline.settings import Settings
from pipeline.spec import JobSpec
from service.submission import estimate
from service.submission.flow import Prepared
from service.submission.notices import advice_on, input_notes
from service.views.submissions import DryRunView, NeedView, PlannedJobView


def dry_run(session: Session | None, prepared: Prepared, settings: Settings, *, most: int | None = None) -> DryRunView:
    """Return what would be stored, at most so many of the jobs, and what it would need and take.

    Without a session nothing was submitted here yet.
    """
    made = None if session is None else prepared.made_before(session, settings)
    before = [] if made is None else [made.sentence(reused=prepared.reuses)]
    submission = made.new if made is not None and prepared.reuses else prepared.jobs
    return DryRunView(
        source=submission.source_name,
        fingerprint=submission.fingerprint,
        total=len(submission.jobs),
        needs=_needs((job.spec for job in submission.jobs), load_library(settings.effective_presets_dir)),
        inputs=len(submission.inputs),
        notices=[*before, *input_notes(submission), *advice_on(submission, settings)],
        estimate=estimate.of_submission(session, submission, settings),
        calibration=None if session is None else estimate.calibration(session),
        jobs=[
            PlannedJobView(line=job.line, variant=job.variant, spec=job.spec.model_dump(mode="json"))
            for job in islice(submission.jobs, most)
        ],
    )


def _needs(specs: Iterable[JobSpec], library: Library) -> list[NeedView]:
    jobs: dict[tuple[str, tuple[str, ...]], tuple[int, int, float]] = {}
    for spec in specs:
        count, segments, seconds = jobs.get((spec.preset, spec.gpu), (0, 0, 0.0))
        jobs[spec.preset, spec.gpu] = (count + 1, segments + spec.segments, seconds + spec.seconds)
    return [
        NeedView(
            preset=name,
            jobs=count,
            segments=segments,
            seconds=round(seconds, 3),
            gpu=list(gpu),
            memory_gib=library.get(name).memory_gib,
            random_weights=library.get(name).random_weights,
        )
        for (name, gpu), (count, segments, seconds) in sorted(jobs.items())
    ]


def unserved(
    needs: Iterable[tuple[str, tuple[str, ...]]], lines: Mapping[str, GpuCapacity], settings: Settings
) -> list[str]:
    """A sentence for each (preset, GPU types) that no live worker can run."""
    presets = load_library(settings.effective_presets_dir).presets
    sentences = []
    for name, gpu in sorted(set(needs)):
        preset = presets.get(name)
        able = [
            gpu_type
            for gpu_type, line in lines.items()
            if line.slots > 0 and (not gpu or gpu_type in gpu) and fits(preset, line.memory_bytes)
        ]
        if not able:
            wanted = f"GPU type {' or '.join(gpu)}" if gpu else "any GPU type with room for it"
            live = ", ".join(sorted(lines)) or "none"
            sentences.append(f"preset {name} on {wanted}: no live worker can run it (live GPU types: {live})")
    return sentences
