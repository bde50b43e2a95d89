"""A submission on its way into the rows: its options, its inputs, what should be said of it."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.orm import Session

from db.clips import batches
from db.clips.batches import Limits, Submitted
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.policy.routes import GpuCapacity, fits
from pipeline.presets import Library, load_library
from pipeline.prompts import Submission
from pipeline.prompts.scoring import FileScoring
from pipeline.prompts.submission import alike
from pipeline.settings import EncodeSettings, SafetySettings, Settings
from pipeline.spec import BatchOptions, EncodeOptions, JobSpec
from pipeline.storage.inputs import put_input
from pipeline.wiring import make_storage
from pipeline.work import ContinuationRef
from service import advice, estimate
from service.choices import SubmissionChoices
from service.scoring_options import score_options
from service.views.submissions import DryRunView, NeedView, PlannedJobView


def batch_options(choices: SubmissionChoices, settings: Settings, in_file: FileScoring | None = None) -> BatchOptions:
    """The batch's options: the settings, the file's defaults, and the command line on top. Raises InputError."""
    encode = settings.encode.model_dump()
    policy = choices.safety_policy or settings.safety.policy
    encode |= {name: value for name in ("codec", "quality") if (value := getattr(choices, name)) is not None}
    problems = []
    for group, values in ((EncodeSettings, encode), (SafetySettings, {"policy": policy})):
        try:
            group.model_validate(values)
        except ValidationError as error:
            names = {"policy": "--safety-policy"}
            for item in error.errors():
                name = str(item["loc"][0])
                flag = names.get(name, f"--{name}")
                problems.append(Problem(f"{item['input']!r} is not possible: {item['msg']}", field=flag))
    strict = choices.safety_policy in ("closed", "hold")
    if strict and settings.safety.classifier is None and settings.solo:
        message = (
            f"{policy!r} is given, but no classifier is set, so nothing would be screened: "
            "set VGEN_SAFETY_CLASSIFIER, or leave the option out"
        )
        problems.append(Problem(message, field="--safety-policy"))
    if problems:
        raise InputError(problems)
    pinned = {name: encode[name] for name in EncodeOptions.model_fields}
    score = score_options(choices, in_file or FileScoring())
    return BatchOptions(
        safety_policy=policy,
        must_screen=True if strict else None,
        encode=EncodeOptions.model_validate(pinned),
        score=score,
    )


def notices(submission: Submission, options: BatchOptions, settings: Settings) -> list[str]:
    """Return sentences that a person should read before the jobs are made."""
    return [*input_notes(submission), *advice_on(submission, settings), *screening_notices(options, settings)]


def screening_notices(options: BatchOptions, settings: Settings) -> list[str]:
    """Say that the policy does nothing where no classifier is set; nothing under ``open``, which promises nothing."""
    if settings.safety.classifier is not None or options.safety_policy == "open":
        return []
    policy = f"safety policy {options.safety_policy}"
    if options.must_screen:
        return [f"no classifier is set here: under {policy} only workers that have one generate anything"]
    where = "" if settings.solo else " here; workers without one do not screen"
    return [f"prompts are not screened: {policy} has no classifier (VGEN_SAFETY_CLASSIFIER is unset{where})"]


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


def presets_of(submission: Submission) -> set[str]:
    """The names of the presets that its jobs have."""
    return {job.spec.preset for job, _ in alike(submission.jobs)}


def advice_on(submission: Submission, settings: Settings) -> list[str]:
    """Return advice on the jobs that holds whoever makes them."""
    models = [f"preset {text}" for text in advice.model_sentences(presets_of(submission), settings)]
    return models + advice.text_sentences(submission.jobs, settings)


def _put_inputs(submission: Submission, settings: Settings, *, only_missing: bool = False) -> None:
    if not submission.inputs:
        return
    storage = make_storage(settings)
    for item in submission.inputs.values():
        # At first also where it is there already: an old object that no row names yet is a sweep's.
        if not only_missing or storage.stat(item.ref.key) is None:
            put_input(storage, item)


def input_notes(submission: Submission) -> list[str]:
    """Return sentences on the parts of the inputs that the clips will not show."""
    from service import input_notes

    return input_notes.sentences((item.name, item.notes) for item in submission.inputs.values())


def dry_run(
    session: Session | None, submission: Submission, settings: Settings, *, most: int | None = None
) -> DryRunView:
    """Return what would be stored, at most so many of the jobs, and what it would need and take.

    Without a session nothing was submitted here yet.
    """
    return DryRunView(
        source=submission.source_name,
        fingerprint=submission.fingerprint,
        total=len(submission.jobs),
        needs=_needs((job.spec for job in submission.jobs), load_library(settings.effective_presets_dir)),
        inputs=len(submission.inputs),
        notices=[*input_notes(submission), *advice_on(submission, settings)],
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
