"""Runs Flower, Celery's monitor, in this process.

``celery -A tasks.app flower`` would import ``tasks`` and run ``flowerconfig.py`` from the current folder, and split a
password at its commas.
"""

import os
import sys
import threading
from types import FrameType

import click
from celery.bin.base import CLIContext
from celery.bin.celery import celery
from flower import command, urls
from tornado.options import options
from tornado.web import RedirectHandler, url

from tasks.app import app

_CONFIG_FILE = "FLOWER_CONF"
_END_S = 3.0
_COLUMNS = "uuid,state,exception,worker,received,started,runtime"
"""The columns of the page of tasks. An id says job, roll, segment, stage and attempt: name and arguments say less."""
_LOGIN = "FLOWER_BASIC_AUTH"


def run_flower(address: str, port: int, login: str, site: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        login: USER:PASSWORD, which may hold commas.
        site: the URL of the pages of `vgen serve`. A task's root is its job, and the link to it leads there.
    """
    if site is not None:
        urls.handlers.insert(0, _to_jobs(site))
    # As the list that Flower makes of the variable, which it would split at commas.
    os.environ.pop(_LOGIN, None)
    options.basic_auth = [login]
    config_file = os.environ.pop(_CONFIG_FILE, os.devnull)
    arguments = [f"--conf={config_file}", f"--address={address}", f"--port={port}", f"--tasks-columns={_COLUMNS}"]
    command.sigterm_handler = _on_sigterm  # Flower connects it
    try:
        with click.Context(celery, obj=CLIContext(app=app, no_color=False, workdir=None)) as parent:
            command.flower.main(arguments, prog_name="flower", parent=parent, standalone_mode=False)
    finally:
        _end_for_certain()


def _to_jobs(site: str) -> url:
    """The route that leads from a job's id, which is no task of its own, to the job's page."""
    target = site.replace("{", "{{").replace("}", "}}") + "/jobs/{0}"
    return url(r"/task/([0-9a-z]{13}-\d{6,})", RedirectHandler, {"url": target, "permanent": False})


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    """End as Flower does; for certain, since whatever runs just now may swallow the exception."""
    _end_for_certain()
    sys.exit(0)


def _end_for_certain() -> None:
    """Have the process end soon: its threads that ask a broker which is away would be waited for, without an end."""
    timer = threading.Timer(_END_S, os._exit, args=(0,))
    timer.daemon = True
    timer.start()
