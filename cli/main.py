"""The command `vgen`: its verbs, and how errors end it.

Commands import what they need when they run, so that `vgen --help` loads neither torch, celery nor SQLAlchemy.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from cli import output, streams
from cli.batches import events, limits, report, results, status, submit, sweep, watch
from cli.context import debugging
from cli.eval import commands as evaluation
from cli.exit_codes import ExitCode, of_error
from cli.jobs import decisions, extend, generate
from cli.models import bench, presets
from cli.operate import chaos, config, database, doctor, health, pause, workers
from cli.typography import refuse_typographic_options
from pipeline import failpoints
from pipeline.errors import VgenError
from pipeline.redaction import redact

app = typer.Typer(
    name="vgen",
    help="A file of prompts in, finished clips out: durable, resumable, accountable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_WORKING = frozenset({"run", "generate", "worker", "dispatcher", "chaos", "bench", "eval"})
"""Commands whose work goes on when nobody reads their output any more; the others then end, with exit code 0."""


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            output.line(f"vgen {version('vgen')}")
        except PackageNotFoundError:
            output.line("vgen (not installed as a package)")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option("--home", help="Folder of a solo run; over VGEN_HOME and its like.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and end.")
    ] = False,
) -> None:
    failpoints.require_valid()
    if ctx.invoked_subcommand in _WORKING:
        streams.keep_working()
    ctx.obj = {} if home is None else {"home": home}
    ctx.obj |= {"log_level": "DEBUG"} if debug else {}


app.command("run")(submit.run)
app.command("generate", context_settings=generate.ANY_KEY)(generate.generate)
app.command("submit")(submit.submit)
app.command("status")(status.status)
app.command("list")(status.list_)
app.command("show")(status.show)
app.command("watch")(watch.watch)
app.command("events")(events.events)
app.command("report")(report.report)
app.command("results")(results.results)
app.command("pause")(pause.pause)
app.command("resume")(pause.resume)
app.command("budget")(limits.budget)
app.command("cancel")(decisions.cancel)
app.command("retry")(decisions.retry)
app.command("approve")(decisions.approve)
app.command("reject")(decisions.reject)
app.command("rerun")(decisions.rerun)
app.command("extend")(extend.extend)
app.add_typer(extend.app, name="state")
app.command("sweep")(sweep.sweep)
app.command("worker")(workers.worker)
app.command("workers")(workers.show)
app.command("dispatcher")(workers.dispatcher)
app.command("beat")(workers.beat)
app.command("flower")(workers.flower)
app.command("chaos")(chaos.chaos)
app.add_typer(health.app, name="health")
app.add_typer(presets.app, name="models")
app.add_typer(bench.app, name="bench")
app.add_typer(evaluation.app, name="eval")
app.add_typer(database.app, name="db")
app.command("doctor")(doctor.doctor)
app.command("config")(config.config)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Errors are shown on stderr, with a traceback only when debugging."""
    debug = debugging() or "--debug" in arguments
    before = os.umask(0o077)  # until the settings are read, which say it
    try:
        refuse_typographic_options(app, arguments)
        code = app(args=list(arguments), prog_name="vgen", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except (BrokenPipeError, streams.ReaderGoneError):
        streams.discard(streams.STDOUT)
        return ExitCode.DONE
    except streams.OutputError as error:
        streams.discard(streams.STDOUT)
        output.error(str(error))
        return ExitCode.INTERNAL
    except typer.TyperException as error:
        output.error(error.format_message())
        output.notice("`vgen COMMAND --help` shows what is possible")
        return error.exit_code
    except UnicodeEncodeError as error:
        # Names of files may hold any bytes, and are written as they are; what is looked up or stored is UTF-8.
        if debug:
            traceback.print_exc()
        output.error(f"{error.object[:200]!r} is not UTF-8: use a name that is")
        return ExitCode.USAGE
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told
        if debug:
            sys.stderr.write(redact(traceback.format_exc()))
        output.error(_message(error, debug))
        return of_error(error)
    finally:
        os.umask(before)


def _message(error: Exception, debug: bool) -> str:
    if isinstance(error, VgenError):
        return str(error) or error.code
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    hint = "" if debug else " (--debug shows where)"
    return f"unexpected {type(error).__name__}: {error}{hint}"


def main() -> None:
    """The entry point of the package."""
    streams.prepare()
    os.environ["PYTHONSAFEPATH"] = "1"  # no Python that we or a library start looks for code in the current folder
    code = run(sys.argv[1:])
    _flush()
    sys.exit(code)


def _flush() -> None:
    """Write what is left, or let go of it: Python would complain when it flushes at the end, and end with 120."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, streams.OutputError, streams.ReaderGoneError):
        streams.discard(streams.STDOUT)


if __name__ == "__main__":
    main()
