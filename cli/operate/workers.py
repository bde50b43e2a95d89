"""`vgen worker`, `dispatcher`, `beat` and `flower`: the processes of a cluster, in the foreground."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.interrupt import Interrupt
from cli.options import Cpu, Gpu, Io, Json
from db.session import Database
from pipeline import extras
from pipeline.errors import InputError, Problem, ServiceUnavailableError
from pipeline.settings import Settings
from service.changes import draining
from service.exit_codes import ExitCode
from service.status import worker_views
from service.views.workers import DrainedView, WorkersView, WorkerView

app = typer.Typer(help="List the live workers and their presets; drain a host.")
_MIN_PASSWORD = 8
_POLL_S = 1.0


def worker(ctx: typer.Context, gpu: Gpu = True, cpu: Cpu = True, io: Io = True) -> int:
    """Run this host's workers, in the foreground; Ctrl-C, SIGTERM or SIGHUP drains them."""
    from tasks.hosts import supervisor

    settings = _cluster(settings_of(ctx), "worker")
    if not (gpu or cpu or io):
        raise InputError([Problem("--no-gpu, --no-cpu and --no-io leave nothing to do")])
    if gpu or cpu:
        extras.require(extras.GENERATE, purpose="what a worker makes clips with")
    require_schema(settings)
    return supervisor.run(settings, gpu=gpu, cpu=cpu, io=io)


@app.callback(invoke_without_command=True)
def show(ctx: typer.Context, json: Json = False) -> int:
    """List the live workers: their GPUs, the presets that they hold, and whether they take work."""
    if ctx.invoked_subcommand is not None:
        return 0
    with open_database(settings_of(ctx)) as database, database.reading() as session:
        views = worker_views(session)
    if json:
        output.as_json(WorkersView(workers=views))
        return 0
    rows = [
        (
            view.name,
            view.gpu_type or "",
            view.assigned_preset or "",
            view.loaded or "",
            _state(view),
            ", ".join(view.queues),
        )
        for view in views
    ]
    output.table(("worker", "GPU", "assigned", "loaded", "state", "queues"), rows)
    return 0


@app.command("drain")
def drain(
    ctx: typer.Context,
    host: Annotated[str, typer.Argument(metavar="HOST", help="A host, as `vgen workers` names it.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the host is idle.")] = False,
    json: Json = False,
) -> int:
    """Drain a host: its GPUs finish their clips and take no more; its other workers continue until they are stopped.

    Restart `vgen worker` to take work again.
    """
    settings = _cluster(settings_of(ctx), "workers drain")
    with open_database(settings) as database:
        drained = draining.drain(database, host, by=settings.owner)
        left = drained.left
        with Interrupt("no longer waiting; the host continues to drain") as interrupt:
            while wait and left and not interrupt.wait(_POLL_S):
                left = draining.left(database, host)
        view = DrainedView(host=host, workers=drained.workers, left=left)
    if json:
        output.as_json(view)
    else:
        output.line(f"{host}: {len(view.workers)} GPU workers take no more work; {view.left} steps are left")
        output.line(f"next: {f'vgen workers drain {host} --wait' if left else f'stop `vgen worker` on {host}'}")
    return ExitCode.INTERRUPTED if interrupt.stopped else ExitCode.DONE


def _state(view: WorkerView) -> str:
    if view.draining:
        return f"draining: {view.drain_reason}" if view.drain_reason else "draining"
    if view.ready:
        return "ready"
    return "idle" if view.assigned_preset is None else "loading"


def dispatcher(ctx: typer.Context) -> int:
    """Run a cluster's dispatcher and reconciler, in the foreground; io workers run them too."""
    from tasks.hosts import dispatcher

    settings = _cluster(settings_of(ctx), "dispatcher")
    require_schema(settings)
    with Interrupt("stopping; again to stop at once") as interrupt:
        dispatcher.run_dispatcher(settings, interrupt.event)
    return 0


def flower(
    ctx: typer.Context,
    address: Annotated[str, typer.Option("--address", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 5555,
    basic_auth: Annotated[
        str | None,
        typer.Option(
            "--basic-auth",
            envvar="VGEN_FLOWER_BASIC_AUTH",
            metavar="USER:PASSWORD",
            help="Login; prefer the variable, because other users can read command lines. "
            "Without it a password is generated and shown.",
        ),
    ] = None,
) -> int:
    """Start Flower, Celery's monitor, behind a password."""
    settings = settings_of(ctx)
    _cluster(settings, "flower")
    if basic_auth is None:
        basic_auth = f"vgen:{secrets.token_urlsafe(15)}"
        output.notice(f"log in to http://{address}:{port} as {basic_auth.replace(':', ' with password ', 1)}")
    user, colon, password = basic_auth.partition(":")
    if not user or not colon or len(password) < _MIN_PASSWORD:
        raise InputError([Problem(f"must be USER:PASSWORD, {_MIN_PASSWORD} characters or more", field="--basic-auth")])
    if not basic_auth.isascii() or not basic_auth.isprintable():
        raise InputError([Problem("may hold printable ASCII characters only", field="--basic-auth")])
    if address not in ("127.0.0.1", "::1", "localhost"):
        output.notice(f"Flower asks no password for /metrics and /healthcheck: keep {address}:{port} off open networks")
    from tasks.hosts import monitor

    monitor.run_flower(address, port, basic_auth, settings.serve.public_url)
    return 0


def beat(
    ctx: typer.Context,
    schedule: Annotated[
        Path | None,
        typer.Option(
            "--schedule",
            help="File with the time of each task's last run; default: beat-schedule in ~/.local/state/vgen.",
        ),
    ] = None,
) -> int:
    """Schedule a cluster's periodic tasks, in the foreground: sweeps, the nightly evaluation. Run one per cluster."""
    from tasks.hosts.beat import run_beat

    run_beat(_cluster(settings_of(ctx), "beat"), schedule)
    return 0


def _cluster(settings: Settings, verb: str) -> Settings:
    if settings.solo:
        raise InputError(
            [Problem(f"`vgen {verb}` is for a cluster, and VGEN_BROKER_URL is not set; solo mode has `vgen run`")]
        )
    return settings


def require_schema(settings: Settings) -> None:
    """Raises ServiceUnavailableError where the tables are older than this release; one that is away is waited for."""
    from db import schema

    database = Database(settings.effective_database_url)
    try:
        problem = schema.behind(database)
    except ServiceUnavailableError as error:
        output.notice(f"waiting for the database: {error}")
        return
    finally:
        database.close()
    if problem is not None:
        raise ServiceUnavailableError(problem)
