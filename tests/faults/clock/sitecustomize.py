"""On PYTHONPATH before all else: this process's wall clock is off by what the file named by the variable says.

Python's own clock only (``time.time``), read anew twice a second, so that it can jump while the process runs.
"""

import os
import time

_FILE = os.environ.get("VGEN_TEST_CLOCK_FILE")
_real = time.time
_state = {"read": 0.0, "offset": 0.0}


def _time() -> float:
    now = time.monotonic()
    if now - _state["read"] > 0.5:
        _state["read"] = now
        try:
            with open(str(_FILE), encoding="ascii") as file:  # noqa: PTH123  # no import that a tested process lacks
                _state["offset"] = float(file.read() or 0)
        except (OSError, ValueError):
            _state["offset"] = 0.0
    return _real() + _state["offset"]


if _FILE:
    time.time = _time
