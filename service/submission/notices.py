"""The notices that a submission gives before its jobs are made."""

from pipeline.prompts import Submission
from pipeline.prompts.submission import alike
from pipeline.settings import Settings
from pipeline.spec import BatchOptions
from service import advice
from service import input_notes as notes


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


def presets_of(submission: Submission) -> set[str]:
    """The names of the presets that its jobs have."""
    return {job.spec.preset for job, _ in alike(submission.jobs)}


def advice_on(submission: Submission, settings: Settings) -> list[str]:
    """Return advice on the jobs that holds whoever makes them."""
    models = [f"preset {text}" for text in advice.model_sentences(presets_of(submission), settings)]
    return models + advice.text_sentences(submission.jobs, settings)


def input_notes(submission: Submission) -> list[str]:
    """Return sentences on the parts of the inputs that the clips will not show."""
    return notes.sentences((item.name, item.notes) for item in submission.inputs.values())
