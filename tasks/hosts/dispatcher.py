"""The process that only dispatches and reconciles."""

import threading

from pipeline.settings import Settings
from tasks.node_name import new_node_name
from tasks.upkeep.timers import DISPATCHER, Timers, worker_report


def run_dispatcher(settings: Settings, stop: threading.Event) -> None:
    """Dispatch and reconcile in the foreground until ``stop`` is set."""
    from tasks.app import app  # noqa: PLC0415  # the application's module imports this one through its signals

    report = worker_report(new_node_name(DISPATCHER), ())
    loops = Timers(app, settings, reports=[report], dispatch=True)
    loops.start()
    stop.wait()
    loops.stop()
