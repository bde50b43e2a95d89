"""`vgen health`: checks this host's own processes, for a container's health check."""

import os
import socket
from collections.abc import Collection

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.options import Cpu, Gpu, Io
from db import workers
from pipeline.settings import Settings
from service.exit_codes import ExitCode
from tasks.hosts import supervisor
from tasks.upkeep.timers import DISPATCHER

app = typer.Typer(
    help="Check this host's workers or dispatcher; the exit code is 0 if they work, 1 if not, 4 without a database.",
    no_args_is_help=True,
)


@app.command("worker")
def worker(ctx: typer.Context, gpu: Gpu = True, cpu: Cpu = True, io: Io = True) -> int:
    """Check whether each worker that `vgen worker` starts here with the same options has reported within 30 s."""
    settings = settings_of(ctx)
    return _answer(settings, [role.name for role in supervisor.roles(settings, gpu=gpu, cpu=cpu, io=io)])


@app.command("dispatcher")
def dispatcher(ctx: typer.Context) -> int:
    """Check whether this host's `vgen dispatcher` has dispatched within the last minute."""
    return _answer(settings_of(ctx), [DISPATCHER])


def _answer(settings: Settings, roles: Collection[str]) -> int:
    """Compare the roles that should be here with those whose rows are fresh and whose processes run.

    A row is named ROLE-RANDOM-PID@HOST. Fresh rows alone do not tell: another container may have the same host name.
    """
    host = socket.gethostname()
    with open_database(settings) as database, database.reading() as session:
        here = [worker for worker in workers.alive(session) if worker.host == host and _runs(worker.pid)]
    alive = {worker.name.partition("-")[0] for worker in here}
    missing = [role for role in roles if role not in alive]
    for role in missing:
        output.error(f"{role}: not seen on {host} in the last {workers.ALIVE_MS // 1000} s")
    if missing:
        return ExitCode.INTERNAL
    output.line(f"running on {host}: {', '.join(roles)}")
    return ExitCode.DONE


def _runs(pid: int) -> bool:
    """Return whether a process of this number runs here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        pass
    return True
