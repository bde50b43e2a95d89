"""`vgen eval calibrate`: proposes margins from runs of an unchanged model."""

from typing import Annotated

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.eval.run_sources import read_run
from cli.options import Json
from pipeline.errors import InputError
from pipeline.scoring import gate, registry
from pipeline.scoring.compare import Run, run_of
from pipeline.scoring.compare.calibration import PASSES, Proposal, propose
from pipeline.scoring.compare.facts import as_text, changes, facts_of_both, is_of_clips
from pipeline.scoring.compare.report import number
from pipeline.scoring.metric import Metric
from pipeline.settings import Settings
from service.exit_codes import ExitCode
from service.views import evals as views
from tasks.upkeep import nightly

_COLUMNS = (
    "metric",
    "margin",
    "prompts",
    "spread",
    "unchanged passes",
    "false alarms",
    "loss found 8 of 10",
    "why not",
)


def calibrate(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Score files or ids of runs of one model; default: its past nights."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Preset of the past nights; default: the setting nightly.preset, else any."),
    ] = None,
    nights: Annotated[int, typer.Option("--nights", min=2, help="The most past nights to use.")] = 10,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Metrics and groups, separated by commas; default: all but checks.")
    ] = None,
    json: Json = False,
) -> int:
    """Propose margins from runs of an unchanged model: past nights, or the same suite with other seeds.

    Past nights are the last ones with the same suite and options. Refuses runs of a changed model or other options.

    Also estimates how often an unchanged night passes or alarms, and which loss is detected. Exits with 3 if there is
    no margin.
    """
    settings = settings_of(ctx)
    runs = [read_run(source, settings) for source in sources] if sources else _past_nights(settings, preset, nights)
    runs = _unchanged(runs, given=bool(sources))
    proposals = propose(runs, _chosen(metrics, runs))
    options = [proposal.option for proposal in proposals if proposal.option is not None]
    if json:
        output.as_json(
            views.EvalCalibrationView(
                runs=[run.name for run in runs],
                passes=PASSES,
                margins=options,
                metrics=[views.ProposalView.of(proposal, metric=proposal.metric.name) for proposal in proposals],
            )
        )
    else:
        _show(runs, proposals, options)
    return ExitCode.DONE if options else ExitCode.INCOMPLETE


def _past_nights(settings: Settings, preset: str | None, most: int) -> list[Run]:
    """Raises InputError: no two nights are alike."""
    with open_database(settings) as database:
        nights = nightly.past_nights(database, preset or settings.nightly.preset, most)
    return [run_of(records, run_id) for run_id, records in nights]


def _unchanged(runs: list[Run], *, given: bool) -> list[Run]:
    """The runs whose clips were made as the last run's were; others are named and left out, or refused where given.

    Raises:
        InputError: given runs are of another model, preset or options, or fewer than two runs are left.
    """
    last, alike, refused = runs[-1], [], []
    for run in runs[:-1]:
        differences = changes(*facts_of_both(run, last))
        if of_clips := [as_text(change) for change in differences if is_of_clips(change)]:
            refused.append(f"{run.name} and {last.name} differ in {', '.join(of_clips)}")
            continue
        alike.append(run)
        if other := [as_text(change) for change in differences if not change.name.startswith("scorer.")]:
            output.notice(f"{run.name} and {last.name} differ in {', '.join(other)}: the margins allow for that too")
    if refused and (given or not alike):
        raise InputError(
            f"margins need runs of a model and options that did not change: {'; '.join(refused)}. Leave out the runs "
            "from before the change"
        )
    for difference in refused:
        output.notice(f"left out: {difference}")
    return [*alike, last]


def _chosen(metrics: str | None, runs: list[Run]) -> list[Metric]:
    present = dict.fromkeys(name for run in runs for clip in run.clips.values() for name in clip.scores)
    if metrics is None:
        named = [registry.METRICS[name] for name in present if name in registry.METRICS]
        chosen = [metric for metric in named if metric.group != gate.CHECKS]
    else:
        names = [name.strip() for name in metrics.split(",") if name.strip()]
        chosen = [metric for metric, itself in registry.named(names) if itself or metric.name in present]
    if not chosen:
        raise InputError("the runs have no score to calibrate but those of checks: score them by other metrics too")
    return chosen


def _show(runs: list[Run], proposals: list[Proposal], options: list[str]) -> None:
    output.facts([("runs", ", ".join(run.name for run in runs))])
    output.table(_COLUMNS, [_row(proposal) for proposal in proposals])
    output.notice(
        f"Margins are such that an unchanged night passes {100 * PASSES:g} times of 100 in all these metrics together. "
        "Shares are of 2,000 nights that are drawn from the runs' own differences."
    )
    for option in options:
        output.line(f'--margin "{option}"')
    if options:
        output.notice(f"or VGEN_NIGHTLY_MARGINS={','.join(options)}")


def _row(proposal: Proposal) -> tuple[str, ...]:
    return (
        proposal.metric.name,
        (proposal.option or "–").removeprefix(proposal.metric.name).lstrip("="),
        str(proposal.prompts),
        number(proposal.spread),
        _share(proposal.passes),
        _share(proposal.false_alarms),
        number(proposal.found),
        proposal.reason or "",
    )


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"
