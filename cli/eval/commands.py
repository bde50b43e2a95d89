"""`vgen eval`: score videos, list metrics, summarise scores."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.context import settings_of
from cli.eval import batch, calibrate, compare, exchange, nightly, resume
from cli.eval import suite as eval_suite
from cli.eval import weights as eval_weights
from cli.eval.inputs import ExpectedOptions, clips_of, lacks_its_inputs
from cli.eval.weights import WeightsOption, weights_of
from cli.options import Json, takes
from pipeline import extras
from pipeline.errors import InputError, Problem
from pipeline.scoring import Models, aggregates, registry, score_file
from pipeline.scoring.metric import Pooling
from pipeline.scoring.residency import Precision
from pipeline.scoring.run import LONG, ClipScores
from pipeline.scoring.score_file import write_scores
from pipeline.scoring.vbench import DIMENSIONS, QUALITY
from service.exit_codes import ExitCode
from service.views import evals as views

app = typer.Typer(help="Score videos, and compare scores.", no_args_is_help=True)
app.add_typer(eval_weights.app, name="weights")
app.command("export")(exchange.export)
app.command("import")(exchange.import_)
app.command("compare")(compare.compare)
app.command("calibrate")(calibrate.calibrate)
app.command("suite")(eval_suite.suite)
app.command("nightly")(nightly.nightly)
app.command("accept")(nightly.accept)
app.command("runs")(eval_suite.runs)
app.command("scores")(eval_suite.scores)

_WRITE_S = 10.0
"""The seconds after which a long run writes what it has."""
Files = Annotated[list[Path], typer.Argument(metavar="SCORES...", help="Score files that `vgen eval run` wrote.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    group: Annotated[str | None, typer.Option("--group", help="Only this group's metrics.")] = None,
    weights: WeightsOption = None,
    json: Json = False,
) -> int:
    """List the metrics: ready, weights missing, or scored by another program."""
    store = weights_of(settings_of(ctx), weights)
    metrics = [metric for metric, _ in registry.named([group or "all"])]
    rows = []
    for metric in metrics:
        ready = registry.readiness(metric, store)
        rows.append(
            views.MetricView.of(
                metric,
                state=ready.state,
                missing=[f"{name}: {store.where(name)}" for name in ready.missing],
                needs=sorted(metric.needs),
                better=metric.direction.value,
                pooling=metric.pooling.value,
            )
        )
    if json:
        groups = {name: list(members) for name, members in registry.GROUPS.items()}
        output.as_json(views.EvalListView(metrics=rows, groups=groups))
        return 0
    output.table(
        ("metric", "state", "needs", "better", "what it is"),
        [(metric.name, metric.state, " ".join(metric.needs), metric.better, metric.title) for metric in rows],
    )
    eval_weights.notices(dict.fromkeys(problem for metric in rows for problem in metric.missing))
    if group is None:
        output.notice(f"groups: {', '.join(registry.GROUPS)}")
    return 0


@app.command("run")
@takes(expected=ExpectedOptions)
def run(
    ctx: typer.Context,
    videos: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VIDEO]...", help="Files, globs or folders of videos; or a batch's id."),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--videos", metavar="VIDEO", help="A file, glob or folder of videos; repeatable."),
    ] = None,
    metrics: Annotated[str, typer.Option("--metrics", help="Metrics and groups, separated by commas.")] = "checks",
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Reference video, or a folder of reference videos with the same file names."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", help="Input image of the videos, or a folder with an image of the same name for each."),
    ] = None,
    text_prompt: Annotated[
        list[str] | None, typer.Option("--text-prompt", help="Prompt of all videos, or one for each, in order.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="JSON object {video: prompt}; default: the folder's manifest.jsonl."
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="JSON list of {video, entry, seed}, for clips of a suite.")
    ] = None,
    suite: Annotated[
        Path | None, typer.Option("--suite", help="VBench_full_info.json; default: the installed vbench wheel's.")
    ] = None,
    expected: ExpectedOptions = ExpectedOptions(),  # noqa: B008 - frozen
    weights: WeightsOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="cpu, cuda, …, or several of one kind: cuda:0,cuda:1; default: the setting eval.device."
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision", help="Precision of matrix products; 16 bits are faster. Default: the setting eval.precision."
        ),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Score a batch in this process instead of on the cluster's workers.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Write the scores to this file, as a JSON list; scores that it already has are kept."
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Score videos, or the clips of a batch. Exits with 3 if a video is unreadable, or a check or model fails."""
    settings = settings_of(ctx)
    store = weights_of(settings, weights)
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    of_batch = batch.names_batch([*(videos or []), *(more or [])])
    if of_batch and (reference or image or text_prompt or prompts or manifest or expected != ExpectedOptions()):
        raise InputError(
            [
                Problem(
                    "cannot be combined with a batch, whose rows have these values: give --metrics only", field="VIDEO"
                )
            ]
        )
    if of_batch and not (settings.solo or here or weights or device or precision):
        return batch.score_by_workers(settings, (videos or more or [""])[0], names, write, json)
    extras.require(extras.EVAL, purpose="what `vgen eval run` scores with")
    clips = (
        []
        if of_batch
        else clips_of(
            [*(videos or []), *(more or [])],
            reference,
            image,
            text_prompt or [],
            prompts,
            manifest,
            suite,
            expected.expected(),
        )
    )
    selection = registry.select(names, store, reference=reference is not None, image=image is not None or of_batch)
    eval_weights.notices(f"left out: {metric.name}: {reason}" for metric, reason in selection.left_out)
    devices = [
        Models(store, name, precision or settings.eval.precision) for name in _devices(device or settings.eval.device)
    ]
    if of_batch and len(devices) > 1:
        raise InputError(
            [Problem("a batch is scored on one device here, or on its cluster's workers", field="--device")]
        )
    earlier = {} if of_batch else resume.earlier_records(write)
    of_rows = batch.BatchRun(settings, (videos or more or [""])[0], names, selection, devices[0])
    results = (
        iter(of_rows)
        if of_batch
        else resume.score(clips, selection.metrics, devices, settings.eval.clip_bytes, earlier)
    )
    scores: list[ClipScores] = []
    records: list[dict[str, Any]] = []
    written = time.monotonic()
    try:
        for result, record in results:
            scores.append(result)
            records.append(record)
            if write is not None and time.monotonic() - written > _WRITE_S:
                write_scores(write, [*records, *earlier.values()])
                written = time.monotonic()
            if not json:
                _show(result)
    finally:  # what was scored stays, also when the rest is interrupted
        if write is not None:
            write_scores(write, [*records, *earlier.values()])
    if json:
        _print_json(records, selection.left_out)
    code = _exit_code(scores)
    if not of_batch and (lacking := sorted(selection.without_weights(names))):
        output.notice(f"incomplete: of a group that was asked for every metric lacks its weights: {', '.join(lacking)}")
        return ExitCode.INCOMPLETE
    incomplete = any(of_rows.summary.values()) or any(lacks_its_inputs(clip, prompts) for clip in clips)
    return ExitCode.INCOMPLETE if incomplete else code


@app.command("aggregate")
def aggregate(
    ctx: typer.Context,
    files: Files,
    long: Annotated[bool, typer.Option("--long", help="Aggregate the scores of VBench-Long (vbench_long.…).")] = False,
    json: Json = False,
) -> int:
    """Aggregate score files to VBench's dimensions, quality, semantic and total score."""
    settings_of(ctx)
    records = [record for file in files for record in score_file.read_scores(file)]
    scores, mixed = score_file.by_metric(records), score_file.mixed_scorers(records)
    group = "vbench_long" if long else "vbench"
    by_dimension = {name: scores.get(f"{group}.{name}", []) for name in DIMENSIONS}
    whole = sum(bool(score.details.get(LONG)) for group_scores in by_dimension.values() for score in group_scores)
    flickering = aggregates.after_static_filter(records, f"{group}.temporal_flickering")
    if flickering is not None:
        by_dimension["temporal_flickering"] = list(flickering.kept)
    pooled = {
        name: aggregates.pool_dimension(name, by_dimension[name], Pooling.WEIGHTED if long else None)
        for name in DIMENSIONS
    }
    summary = aggregates.aggregate({name: score.value for name, score in pooled.items() if score.value is not None})
    notices = []
    if summary.total is None:
        notices.append(f"no total: {len(summary.missing)} of 16 dimensions are missing: {', '.join(summary.missing)}")
    notices += [
        f"{name}: scores of several scorers are mixed (version, weights, device or libraries)" for name in mixed
    ]
    if whole:
        notices.append(
            f"{whole} scores are of clips of 5 s and more, scored as short ones: VBench-Long cuts those into parts "
            "(`--metrics vbench-long`, then `aggregate --long`)"
        )
    if flickering is not None:
        notices.append(
            f"temporal_flickering is of the {len(flickering.kept)} clips that the static filter keeps, "
            f"of {len(flickering.kept) + flickering.dropped}, as on the leaderboard"
        )
    elif pooled["temporal_flickering"].scored:
        notices.append(
            "temporal_flickering is of all clips: the official protocol drops those that are not static "
            "(`--metrics vbench_tools.static_filter` for each of them)"
        )
    view = views.EvalAggregateView.of(
        summary,
        dimensions=[
            views.DimensionView.of(score, name=name, normalised=summary.normalised.get(name))
            for name, score in pooled.items()
        ],
        missing=list(summary.missing),
        notices=notices,
    )
    if json:
        output.as_json(view)
        return 0
    _show_aggregate(view)
    for notice in notices:
        output.notice(notice)
    return 0


def _show_aggregate(view: views.EvalAggregateView) -> None:
    rows = [
        (
            dimension.name,
            "quality" if dimension.name in QUALITY else "semantic",
            _percent(dimension.value),
            _percent(dimension.normalised),
            dimension.scored,
            dimension.not_scored,
        )
        for dimension in view.dimensions
        if dimension.scored or dimension.not_scored
    ]
    output.table(("dimension", "group", "value", "normalised", "scored", "not scored"), rows)
    sums = (("quality (of 7)", view.quality), ("semantic (of 9)", view.semantic), ("total (of 16)", view.total))
    output.facts([(name, _percent(value) or "incomplete") for name, value in sums])


def _devices(text: str) -> list[str]:
    """Device names separated by commas. Raises InputError where they are of several kinds: scores would differ."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    kinds = dict.fromkeys(name.partition(":")[0] for name in names)
    if len(kinds) != 1:
        message = f"{text!r} is not a device, or several of one kind, separated by commas"
        raise InputError([Problem(message, field="--device")])
    return names


def _show(result: ClipScores) -> None:
    for name, score in result.scores.items():
        if score.score is None:
            verdict = f"not scored: {score.reason}"
        else:
            verdict = f"{score.score:.6g}{'' if score.passed is None else ' pass' if score.passed else ' FAIL'}"
        output.line(f"{result.clip.video}\t{name}\t{verdict}")


def _print_json(records: list[dict[str, Any]], left_out: Any) -> None:
    output.as_json(
        views.EvalRunView(
            clips=[views.ClipScoresView(**{**views.NO_CLIP_SCORES, **record}) for record in records],
            left_out=[views.LeftOutView(name=metric.name, reason=reason) for metric, reason in left_out],
        )
    )


def _exit_code(scores: list[ClipScores]) -> ExitCode:
    unread = [result for result in scores if result.problem is not None]
    failed = [(result, name) for result in scores for name, score in result.scores.items() if score.passed is False]
    for result in scores:
        for note in result.notes:
            output.notice(f"{result.clip.video} {note}")
    for result in unread:
        output.notice(f"not read: {result.problem}")
    broken = [score.reason for result in scores for score in result.scores.values() if score.details.get("failed")]
    for reason in dict.fromkeys(broken):
        output.notice(f"not scored ({broken.count(reason)} clips): {reason}")
    if failed:
        output.notice(f"failed checks: {len(failed)}, on {len({str(result.clip.video) for result, _ in failed})} clips")
    return ExitCode.INCOMPLETE if unread or failed or broken else ExitCode.DONE


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f}"
