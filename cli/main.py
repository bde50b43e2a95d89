"""The command `vgen`: its table of commands, and the exit code of each error.

A command is imported when it is called, so that `vgen --help` loads neither torch, celery nor SQLAlchemy.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli import output, streams
from cli.command_table import CommandTable, Entry
from cli.command_words import HELP, global_options_first
from cli.typography import refuse_typographic_options
from pipeline import extras, failpoints
from pipeline.errors import VgenError
from pipeline.extras import EVAL, SERVE
from pipeline.processes import set_process_name
from pipeline.redaction import redact
from service.exit_codes import ExitCode, of_error

ANY_KEY = {"allow_extra_args": True, "ignore_unknown_options": True}
"""The context settings of `vgen generate`, whose options are a clip's fields and the keys of its file."""
TABLE: dict[str, Entry] = {
    "init": Entry("cli.operate.init:init", "Write a commented vgen.toml into the current folder."),
    "run": Entry(
        "cli.batches.submit:run", "Make the clips of FILE on this machine, and of everything else that waits."
    ),
    "generate": Entry(
        "cli.jobs.generate:generate",
        "Make one clip of a prompt or a YAML file, without a database.",
        ANY_KEY,
        "[PROMPT] [OPTIONS]",
    ),
    "submit": Entry("cli.batches.submit:submit", "Store a prompt file as a batch; repeating it adds nothing."),
    "plan": Entry("cli.batches.submit:plan", "Show what a file would make, cost and take; store nothing."),
    "status": Entry("cli.batches.status:status", "Show a batch's progress: jobs by state, what runs, what failed."),
    "list": Entry("cli.batches.status:list_", "List batches, newest first; or the jobs of one."),
    "show": Entry("cli.batches.status:show", "Show everything about a job: steps, attempts, files, events."),
    "watch": Entry("cli.batches.watch:watch", "Follow a batch until it ends, and exit with its exit code."),
    "events": Entry("cli.batches.events:events", "Show the history of a batch, job or session."),
    "report": Entry("cli.results.report:report", "Show where a batch's time went: workers, GPUs, stages, cost."),
    "results": Entry("cli.results.clips:results", "Show a batch's clips: paths, URLs, or download them."),
    "votes": Entry("cli.results.votes:app", "Rate clips, vote between two clips, and export ratings and votes."),
    "gallery": Entry("cli.batches.gallery:gallery", "Write a batch's clips as HTML pages, or as a contact sheet."),
    "pause": Entry("cli.operate.pause:pause", "Pause a batch, a queue or everything; running work is given back."),
    "resume": Entry("cli.operate.pause:resume", "Resume what was paused."),
    "budget": Entry("cli.batches.limits:budget", "Show or change a batch's budget and deadline."),
    "cancel": Entry(
        "cli.jobs.cancel_retry_approve:cancel", "Cancel jobs; a running one stops within a denoising step."
    ),
    "retry": Entry(
        "cli.jobs.cancel_retry_approve:retry", "Retry failed or cancelled jobs, from the step where they ended."
    ),
    "approve": Entry("cli.jobs.cancel_retry_approve:approve", "Approve held jobs, which then continue."),
    "reject": Entry("cli.jobs.cancel_retry_approve:reject", "Reject held jobs, which are then blocked."),
    "rerun": Entry("cli.jobs.rerun:rerun", "Make clips again as a new batch, with the same specification."),
    "extend": Entry("cli.jobs.extend:extend", "Continue a finished clip."),
    "state": Entry("cli.jobs.extend:app", "Export or import the continuation state of a finished clip."),
    "open": Entry("cli.jobs.open:open_", "Open a finished clip in this desktop's player."),
    "delete": Entry("cli.batches.delete:delete", "Delete a batch that has ended, with its files and rows."),
    "sweep": Entry("cli.operate.sweep:sweep", "Delete unused files from the store and this host."),
    "worker": Entry("cli.operate.workers:worker", "Run this host's workers, in the foreground."),
    "workers": Entry("cli.operate.workers:app", "List the live workers and their presets; drain a host."),
    "serve": Entry(
        "cli.operate.serve:serve", "Start the HTTP server; in solo mode it also makes the clips.", extra=SERVE
    ),
    "router-serve": Entry(
        "cli.operate.router:router_serve",
        "Put several servers behind one address, for HTTP and WebSockets.",
        extra=SERVE,
    ),
    "keys": Entry("cli.operate.keys:app", "Create, list and revoke API keys for `vgen serve`."),
    "sessions": Entry("cli.operate.sessions:app", "List, show and close streaming sessions."),
    "dispatcher": Entry(
        "cli.operate.workers:dispatcher", "Run a cluster's dispatcher and reconciler, in the foreground."
    ),
    "beat": Entry("cli.operate.workers:beat", "Schedule a cluster's periodic tasks: sweeps, the nightly evaluation."),
    "flower": Entry("cli.operate.workers:flower", "Start Flower, Celery's monitor, behind a password.", extra=SERVE),
    "chaos": Entry(
        "cli.operate.chaos:chaos", "Kill this host's workers at random, and report what happened to the jobs."
    ),
    "health": Entry("cli.operate.health:app", "Check this host's processes, for a container's health check."),
    "models": Entry("cli.models.presets:app", "List, show, add, pull, check and calibrate models."),
    "bench": Entry("cli.models.bench:app", "Benchmark a preset's accelerations on this machine."),
    "eval": Entry("cli.eval.commands:app", "Score videos, compare runs, and evaluate every night.", extra=EVAL),
    "db": Entry("cli.operate.database:app", "Create, upgrade and check the database's tables."),
    "doctor": Entry(
        "cli.operate.doctor:doctor", "Check the installation and its services, and say how to repair what is wrong."
    ),
    "config": Entry("cli.operate.config:config", "Show every setting and where its value comes from."),
}
"""Each command's function, and its help in one line."""


class _Commands(CommandTable):
    table = TABLE


app = typer.Typer(
    name="vgen",
    cls=_Commands,
    help="Make AI video clips from files of prompts: durable, resumable, accountable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": list(HELP)},
)
_WORKING = frozenset(
    {"run", "generate", "worker", "serve", "router-serve", "dispatcher", "chaos", "bench", "eval", "models"}
)
"""Commands whose work goes on when nobody reads their output any more; the others then end, with exit code 0."""


_STANDING = frozenset({"run", "worker", "serve", "router-serve", "dispatcher", "beat", "flower"})
"""Commands whose process is named after them."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version  # a fifth of the time that --help takes

        try:
            output.line(f"vgen {version('vgen')}")
        except PackageNotFoundError:
            output.line("vgen (not installed as a package)")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", help="Home folder of solo mode, instead of VGEN_HOME; allowed anywhere on the command line."
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    failpoints.require_valid()
    if ctx.invoked_subcommand in _WORKING:
        streams.keep_working()
    if ctx.invoked_subcommand in _STANDING:
        set_process_name(f"vgen-{ctx.invoked_subcommand}")
    ctx.obj = {} if home is None else {"home": home}
    ctx.obj |= {"log_level": "DEBUG"} if debug else {}


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Errors are shown on stderr, with a traceback only when debugging."""
    debug = os.environ.get("VGEN_LOG_LEVEL", "").upper() == "DEBUG" or "--debug" in arguments
    before = os.umask(0o077)  # until the settings are read, which say it
    try:
        refuse_typographic_options(app, arguments)
        code = app(args=global_options_first(app, arguments), prog_name="vgen", standalone_mode=False)
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
        if type(error).__name__ == "NoArgsIsHelpError":  # of a group alone: typer does not export it
            for text in error.format_message().splitlines():
                output.line(text)
            return ExitCode.DONE
        output.error(error.format_message())
        output.notice("`vgen COMMAND --help` shows what is possible")
        return error.exit_code
    except UnicodeEncodeError as error:
        # Names of files may hold any bytes, and are written as they are; what is looked up or stored is UTF-8.
        if debug:
            traceback.print_exc()
        output.error(f"{error.object[:200]!r} is not UTF-8: use a name that is")
        return ExitCode.USAGE
    except ModuleNotFoundError as error:
        return _not_installed(error, arguments, debug)
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told
        return _failed(error, debug)
    finally:
        os.umask(before)


def _not_installed(error: ModuleNotFoundError, arguments: Sequence[str], debug: bool) -> int:
    command = next((name for name in arguments if name in TABLE), "")
    purpose, extra = (f"`vgen {command}`", TABLE[command].extra) if command else ("this", None)
    return _failed(extras.missing_module(error.name or "", purpose=purpose, prefer=extra) or error, debug)


def _failed(error: Exception, debug: bool) -> int:
    if debug:
        sys.stderr.write(redact(traceback.format_exc()))
    output.error(_message(error, debug))
    return of_error(error)


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
