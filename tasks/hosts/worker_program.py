"""Celery's worker program, as ``vgen worker`` and ``celery -A tasks worker`` run it."""

import signal
import warnings
from typing import Any

from celery.apps import worker
from celery.platforms import SecurityWarning

from pipeline.processes import hang_up_like_sigterm


class Worker(worker.Worker):  # type: ignore[misc]  # Celery has no types
    """Drains when its terminal closes, and says nothing of the root user.

    Celery would start the command line of this process again at SIGHUP, even under ``nohup``; in a fork of
    ``vgen worker`` that is the whole host's. Its warning names an option that ``vgen`` lacks, and the danger that it
    means, pickled messages, is none here: only JSON is read.
    """

    def on_before_init(self, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            super().on_before_init(**options)

    def install_platform_tweaks(self, program: Any) -> None:
        hangup = signal.getsignal(signal.SIGHUP)
        super().install_platform_tweaks(program)
        signal.signal(signal.SIGHUP, hangup)  # not Celery's
        hang_up_like_sigterm()
