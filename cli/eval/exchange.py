"""`vgen eval export` and `import`: exchange clips and scores with VBench's own code."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.options import Json
from pipeline.errors import InputError, Problem
from pipeline.scoring import exchange, score_file
from pipeline.scoring.exchange import Exported
from pipeline.scoring.metric import Score
from pipeline.scoring.score_file import Record
from pipeline.scoring.suite import find_suite, read_suite
from pipeline.scoring.vbench import DIMENSIONS, EXTERNAL
from service.views import evals as views


def export(
    ctx: typer.Context,
    manifest: Annotated[Path, typer.Option("--manifest", help="JSON list of {video, entry, seed}.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="An empty folder for the files.")],
    suite: Annotated[
        Path | None, typer.Option("--suite", help="VBench_full_info.json; default: the installed vbench wheel's.")
    ] = None,
    dimension: Annotated[
        list[str] | None,
        typer.Option("--dimension", help="A dimension; repeatable. Default: those that vgen does not score."),
    ] = None,
    json: Json = False,
) -> int:
    """Export clips under the file names that VBench's own code reads."""
    settings_of(ctx)
    unknown = [name for name in dimension or () if name not in DIMENSIONS]
    if unknown:
        raise InputError([Problem(f"{name!r} is not a VBench dimension", field="--dimension") for name in unknown])
    parsed = read_suite(find_suite(suite))
    done = exchange.export(exchange.read_manifest(manifest, parsed), parsed, dimension or EXTERNAL, to)
    if not done:
        raise InputError([Problem("no clip of the manifest is for one of these dimensions", file=str(manifest))])
    counts = dict(Counter(item.dimension for item in done))
    if json:
        output.as_json(views.EvalExportView(folder=str(to), files=counts))
        return 0
    output.table(("dimension", "files"), list(counts.items()))
    output.notice(f"for each dimension: vbench evaluate --videos_path {to}/DIMENSION --dimension DIMENSION")
    output.notice(f"then: vgen eval import RESULTS --export {to} --scores FILE")
    return 0


def import_(
    ctx: typer.Context,
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="VBench's *_eval_results.json files.")],
    exported: Annotated[Path, typer.Option("--export", metavar="DIR", help="The folder that `export` made.")],
    scores: Annotated[Path, typer.Option("--scores", metavar="FILE", help="Score file to add them to, or to create.")],
    json: Json = False,
) -> int:
    """Import the results of VBench's own code into a score file. They replace its scores of the same clips."""
    settings_of(ctx)
    official = exchange.merged_results(results, exchange.read_export(exported))
    read = official.scores
    records = score_file.read_scores(scores) if scores.exists() else []
    score_file.write_scores(scores, _merged(records, read))
    imported = dict(Counter(item.dimension for item, score in read if score.score is not None))
    left_out = dict(Counter(item.dimension for item, score in read if score.score is None))
    if json:
        view = views.EvalImportView(
            scores=str(scores), imported=imported, not_scored=left_out, notices=official.notices
        )
        output.as_json(view)
        return 0
    dimensions = dict.fromkeys(item.dimension for item, _ in read)
    output.table(
        ("dimension", "imported", "not scored"),
        [(name, imported.get(name, 0), left_out.get(name, 0)) for name in dimensions],
    )
    for notice in official.notices:
        output.notice(notice)
    return 0


def _merged(records: list[Record], results: list[tuple[Exported, Score]]) -> list[Record]:
    by_key = {
        (record.get("entry"), record.get("seed")): record for record in records if record.get("entry") is not None
    }
    merged = list(records)
    for item, score in results:
        record = by_key.get((item.entry, item.seed))
        if record is None:
            record = {"video": item.video, "entry": item.entry, "seed": item.seed, "scores": {}}
            by_key[item.entry, item.seed] = record
            merged.append(record)
        name = f"vbench.{item.dimension}"
        record["scores"][name] = {"name": name, **score.as_json()}
    return merged
