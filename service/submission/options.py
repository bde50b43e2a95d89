"""Resolves a batch's options: the settings, the file's defaults, and the submitter's choices."""

from pydantic import ValidationError

from pipeline.errors import InputError, Problem
from pipeline.prompts.scoring import FileScoring
from pipeline.settings import EncodeSettings, SafetySettings, Settings
from pipeline.spec import BatchOptions, EncodeOptions
from service.choices import SubmissionChoices
from service.submission.scoring_options import score_options


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
