"""Runs Celery's beat in this process; ``celery -A tasks beat`` would import ``tasks`` from the current folder."""

import os
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.files.private import private_folder, require_own
from pipeline.settings import Settings
from tasks import app

_MAX_INTERVAL_S = 60
"""Beat wakes at least so often; its health check looks at how old the file is that it then writes."""


def default_schedule() -> Path:
    """Return a path in the user's state folder (XDG base directory specification): an unpickled file is not for the
    home, which may lie in somebody else's folder."""
    base = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return folder / "vgen" / "beat-schedule"


def run_beat(settings: Settings, schedule: Path | None = None) -> None:
    """Send periodic work until SIGTERM or Ctrl-C; the file ``schedule`` keeps when each task was last sent.

    Raises:
        SettingsError: the file's folder cannot be used, or the file is another user's: it is unpickled.
    """
    path = (schedule or default_schedule()).absolute()
    try:
        private_folder(path.parent)
        for file in path.parent.glob(f"{path.name}*"):
            require_own(file)
    except OSError as error:
        raise SettingsError(f"--schedule {path}: {error.strerror}") from None
    app.Beat(schedule=str(path), max_interval=_MAX_INTERVAL_S, loglevel=settings.log_level, quiet=True).run()
