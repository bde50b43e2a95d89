"""The process that loads a classifier: fastText is native code, and a damaged file can end the process that reads it.

    python -m pipeline.safety.child PATH

Each line of its input is a JSON list of texts, each of one line; each line of its output is ``{"labels": [[label,
score] or null, …]}`` or ``{"error": TEXT}``. The first line of output says how the loading went. It ends with its
input.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

_ADDRESS_SPACE = 8 * 1024**3
"""Bytes, besides four times the file's: a damaged file may name sizes that would take all of the host's memory."""


def main() -> int:
    """Serve until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the worker, which may still screen while it drains
    path = Path(sys.argv[1])
    answers = _own_output()
    _limit(path)
    try:
        import fasttext  # noqa: PLC0415 - native code; here is the only place that loads it

        model = fasttext.load_model(str(path))
    except Exception as error:  # noqa: BLE001 - whatever the library raises is the answer
        _answer(answers, {"error": f"{path} cannot be loaded: {error}"})
        return 0
    _answer(answers, {"labels": []})
    for line in sys.stdin:
        _answer(answers, _predict(model, path, json.loads(line)))
    return 0


def _predict(model: Any, path: Path, texts: Sequence[str]) -> dict[str, Any]:
    predictions: list[tuple[str, float] | None] = []
    try:
        for text in texts:
            labels, scores = model.predict(text, k=1)
            predictions.append((labels[0], float(scores[0])) if labels else None)
    except Exception as error:  # noqa: BLE001 - fastText raises RuntimeError on NaN weights, and who knows what else
        return {"error": f"{path} gives no score: {error}"}
    return {"labels": predictions}


def _answer(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def _own_output() -> TextIO:
    """A copy of the standard output, which goes nowhere from now on: the library may print."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return answers


def _limit(path: Path) -> None:
    with contextlib.suppress(OSError, ValueError):  # a lower limit holds already
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = _ADDRESS_SPACE + 4 * path.stat().st_size
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    sys.exit(main())
