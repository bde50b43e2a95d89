"""`vgen chaos`: injects faults into one's own cluster, and reports what happened."""

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.batches import prompt_file
from cli.context import open_database, settings_of
from cli.interrupt import Interrupt
from cli.options import BatchChoices, FieldOptions, Json
from db.clips import batches
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.scoring.suite import SHAPES_SUITE, read_suite
from pipeline.settings import Settings
from service import submission
from service.exit_codes import ExitCode
from service.views.operations import ChaosView, RecoveriesView
from tasks.upkeep.chaos import ChaosResult, Damage, inflict_faults, judge, targets

_SETTLE_S = 900.0
"""The seconds that jobs are waited for once the faults are over: longer than every backoff of a step together."""


def chaos(
    ctx: typer.Context,
    yes: Annotated[
        bool,
        typer.Option("--yes-break-things", help="Required, because workers of this host are killed while they work."),
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Seconds for which faults are injected.")] = 60.0,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of the faults; without it, one is chosen and shown.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=1000, help="Number of clips of the test batch.")] = 24,
    preset: Annotated[str, typer.Option("--preset", help="The preset of the clips.")] = "shapes-wan",
    json: Json = False,
) -> int:
    """Kill, stop and terminate this host's workers at random during a small batch, and report the fate of its jobs.

    Other batches on these workers are disturbed too, and their work is repeated. Brokers, databases, stores and
    other hosts are left alone. Exit code 3 when a job was lost or published twice.
    """
    settings = settings_of(ctx)
    if not yes:
        raise InputError([Problem("kills running workers: confirm with --yes-break-things", field="chaos")])
    if settings.solo:
        raise InputError([Problem("`vgen chaos` is for a cluster, and VGEN_BROKER_URL is not set")])
    seed = int(time.time()) % 100_000 if seed is None else seed
    with open_database(settings) as database:
        return _run(settings, database, seconds=seconds, seed=seed, jobs=jobs, preset=preset, json=json)


def _run(
    settings: Settings, database: Database, *, seconds: float, seed: int, jobs: int, preset: str, json: bool
) -> int:
    with database.reading() as session:
        victims = targets(session)
    if not victims:
        raise InputError([Problem("no live worker of this host; start `vgen worker` first", field="chaos")])
    output.notice(f"seed {seed}: breaking {len(victims)} workers of this host for {seconds:g} s")
    batch_id = _submit(settings, database, jobs, preset)
    damage, end = Damage(), time.monotonic() + seconds
    with Interrupt("no more faults; again to stop at once") as interrupt:
        inflict_faults(
            database,
            damage,
            seed=seed,
            between_s=(1.0, 4.0),
            lease_s=settings.worker.lease_s,
            wait=interrupt.wait,
            until=lambda: time.monotonic() >= end,
            say=output.notice,
        )
        settle = time.monotonic() + _SETTLE_S
        while _open(_states(database, batch_id)) and time.monotonic() < settle and not interrupt.wait(1.0):
            pass
    with database.reading() as session:
        result = judge(session, _states(database, batch_id), damage)
    if json:
        output.as_json(_view(batch_id, seed, damage, result))
    else:
        _show(batch_id, seed, damage, result)
    return ExitCode.DONE if result.unended == 0 and result.published_twice == 0 else ExitCode.INCOMPLETE


def _submit(settings: Settings, database: Database, jobs: int, preset: str) -> str:
    with tempfile.TemporaryDirectory(prefix="vgen-chaos-") as folder:
        path = Path(folder) / "chaos.txt"
        prompts = itertools.cycle(entry.prompt for entry in read_suite(SHAPES_SUITE).entries)
        path.write_text("".join(f"{prompt}\n" for prompt in itertools.islice(prompts, jobs)), "utf-8")
        choices = BatchChoices(name="chaos", again=True)
        parsed = prompt_file.read(str(path), FieldOptions(preset=preset), settings)
        options = submission.batch_options(choices, settings)
        return submission.store(
            parsed, options, settings=settings, database=database, name="chaos", again=True
        ).batch_id


def _states(database: Database, batch_id: str) -> Sequence[tuple[str, str]]:
    with database.reading() as session:
        return [(job.id, job.state.value) for job in batches.job_rows(session, batch_id, limit=1000)]


def _open(states: Sequence[tuple[str, str]]) -> bool:
    return any(state in ("waiting", "in_flight") for _, state in states)


def _show(batch_id: str, seed: int, damage: Damage, result: ChaosResult) -> None:
    output.facts(
        [
            ("batch", batch_id),
            ("seed", seed),
            ("faults", ", ".join(f"{count} × {kind}" for kind, count in damage.kinds.most_common()) or "none"),
            ("jobs", ", ".join(f"{count} {state}" for state, count in result.states.most_common())),
            ("lost", result.unended),
            ("published twice", result.published_twice),
            ("time to recover", _recoveries(result)),
            ("GPU time wasted", f"{result.wasted_gpu_s:.1f} s of {result.gpu_s:.1f} s"),
        ]
    )


def _view(batch_id: str, seed: int, damage: Damage, result: ChaosResult) -> ChaosView:
    times = result.quantiles()
    return ChaosView.of(
        result,
        batch_id=batch_id,
        seed=seed,
        faults=dict(damage.kinds),
        jobs=dict(result.states),
        lost=result.unended,
        recoveries_s=None if times is None else RecoveriesView(p50=times[0], p90=times[1], longest=times[2]),
    )


def _recoveries(result: ChaosResult) -> str:
    if (times := result.quantiles()) is None:
        return "no step was interrupted"
    return "p50 {:.1f} s, p90 {:.1f} s, longest {:.1f} s".format(*times)
