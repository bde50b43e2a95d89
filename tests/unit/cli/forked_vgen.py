"""Runs many command lines of `vgen`, each in a forked process with streams of its own: imports are paid for once.

Reads a JSON list of {"arguments": […], "streams": name, "encoding": name} from stdin, writes one of
{"code", "out", "err"}.
Arguments are UTF-8 with surrogate escapes, as the operating system's are.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import sys
import tempfile
from functools import cache
from typing import Any

import typer.main

from cli import main


def _import_all(command: Any) -> None:
    """Every command of the tree: a child would import each anew."""
    for inner in getattr(command, "commands", {}).values():
        _import_all(inner)


def _point(number: int, path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    os.dup2(descriptor, number)
    os.close(descriptor)


def _arrange(streams: str, out: int, err: int) -> None:
    """Streams named by what is wrong with them."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    if streams in ("reader gone", "both readers gone"):
        reader, writer = os.pipe()
        os.close(reader)
        for number in (1, 2) if streams.startswith("both") else (1,):
            os.dup2(writer, number)
    for number in {"stdout closed": (1,), "stderr closed": (2,), "all closed": (0, 1, 2)}.get(streams, ()):
        os.close(number)
    for number in {"stdout full": (1,), "both full": (1, 2)}.get(streams, ()):
        _point(number, "/dev/full", os.O_WRONLY)


def _as_started(encoding: str) -> None:
    """Python's own streams over the descriptors, as it opens them at its start."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            stream = None
        else:
            stream = io.TextIOWrapper(
                io.FileIO(number, "r", closefd=False)  # type: ignore[arg-type]
                if number == 0
                else io.BufferedWriter(io.FileIO(number, "w", closefd=False)),
                encoding=encoding,
                errors="backslashreplace" if number == 2 else "strict",
                line_buffering=number == 2,
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(case: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _arrange(case["streams"], out.fileno(), err.fileno())
            _as_started(case.get("encoding", "utf-8"))
            sys.argv = ["vgen", *case["arguments"]]
            main.main()
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": out.read().decode(case.get("encoding", "utf-8"), "backslashreplace"),
            "err": err.read().decode("utf-8", "backslashreplace"),
        }


def _import_what_commands_import() -> None:
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()):
            for words in (["list"], ["list", "--json"], ["events", "x"], ["config"], ["models", "list"], ["--help"]):
                main.run(["--home", home, *words])
    _import_all(typer.main.get_command(main.app))
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    typer.main.get_command = cache(typer.main.get_command)
    cases = json.load(sys.stdin)
    _import_what_commands_import()
    results = [_run(case) for case in cases]
    json.dump(results, sys.stdout)
