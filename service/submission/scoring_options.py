"""The scoring options of a submission: what it chose wins over its file's defaults."""

from pipeline.errors import InputError, Problem
from pipeline.prompts.scoring import FileScoring, split_names
from pipeline.spec import MAX_REROLL, ScoreOptions
from service.choices import SubmissionChoices


def score_options(choices: SubmissionChoices, in_file: FileScoring) -> ScoreOptions | None:
    """Return how the batch's clips are scored; None: they are not.

    Raises:
        InputError: a gate without scores, an unknown metric, an invalid rule, a number out of range.
    """
    metrics = split_names(choices.score) if choices.score is not None else in_file.score
    rules = [name for text in choices.gate for name in split_names(text)] if choices.gate else list(in_file.gate or ())
    reroll = choices.reroll if choices.reroll is not None else in_file.reroll
    if not metrics:
        flags = [flag for flag, value in (("--gate", rules), ("--reroll", reroll)) if value]
        if choices.score is not None:
            flags.insert(0, "--score")
        if flags:
            raise InputError([Problem("names no metric: give some, such as checks for --score", field=flags[0])])
        return None
    from pipeline.scoring import gate

    if reroll is not None and not 0 <= reroll <= MAX_REROLL:
        raise InputError([Problem(f"{reroll} is not 0 to {MAX_REROLL}", field="--reroll")])
    scored = gate.check_metrics(metrics)
    if reroll and not rules:
        if not any(metric.group == gate.CHECKS for metric in scored):
            raise InputError([Problem("needs --gate: no check is scored that could fail", field="--reroll")])
        rules = [gate.CHECKS]
    gate.parse(rules, metrics)
    return ScoreOptions(metrics=metrics, gate=tuple(rules), reroll=reroll or 0)
