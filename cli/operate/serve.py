"""`vgen serve`: runs the HTTP server in the foreground; in solo mode this process also makes the clips."""

from __future__ import annotations

import re
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.interrupt import Interrupt
from cli.operate.workers import require_schema
from db import api_keys
from db.session import Database
from pipeline import extras
from pipeline.errors import InputError, Problem, ServiceUnavailableError
from pipeline.settings import Settings
from service.keys import KeyRule

if TYPE_CHECKING:
    from server.stream import ServeFile

_HOST, _PORT = "127.0.0.1", 8000

_ORIGIN = re.compile(r"https?://[^/?#@\s*]+")


def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option("--host", show_default="127.0.0.1", help="Address to listen on.")] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, show_default="8000", help="Port to listen on; 0: any free one."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Answer every client without a key, on any address.")] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="An origin whose pages may call the server; repeatable."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="YAML file with FastVideo's fields: `server:`, `streaming:`, …"),
    ] = None,
    mock: Annotated[
        bool, typer.Option("--mock", help="Stream moving gradients, without a model; store nothing.")
    ] = False,
) -> int:
    """Start the HTTP server, in the foreground; in solo mode it also makes the clips. Ctrl-C or SIGTERM drains."""
    from db import schema

    extras.require(extras.SERVE, purpose="what `vgen serve` answers with")
    from server import process
    from server.listener import is_loopback, listen, shown_address
    from server.stream import ServeFile, read_serve_file

    file = ServeFile() if config is None else read_serve_file(config)
    for notice in file.notices:
        output.notice(f"{config}: {notice}")
    settings, origins = file.settings(settings_of(ctx)), _origins(allow_origin or [])
    if settings.solo and not mock:
        extras.require(extras.GENERATE, purpose="what makes the clips of a server in solo mode")
    port = port if port is not None else file.server.port if file.server.port is not None else _PORT
    listener = listen(host or file.server.host or _HOST, port)
    if mock:
        return _serve_mock(settings, file, listener, origins, open_=open_)
    database = Database(settings.effective_database_url)
    try:
        if database.is_sqlite:
            schema.upgrade(database)
        else:
            require_schema(settings)
        rule = _key_rule(database, open_, is_loopback=is_loopback(listener))
        with Interrupt("stopping: what runs is answered and given back; again to stop at once") as interrupt:
            output.notice(f"serving on http://{shown_address(listener)}")
            process.serve(
                settings, database, listener, interrupt.event, key_rule=rule, allowed_origins=origins, file=file
            )
    finally:
        database.close()
    return 0


def _serve_mock(settings: Settings, file: ServeFile, listener: socket, origins: list[str], *, open_: bool) -> int:
    """Raises InputError: others can reach it, and nobody said that they may."""
    from server import process
    from server.listener import is_loopback, shown_address
    from server.stream import StreamService

    if not open_ and not is_loopback(listener):
        message = "other machines can reach this address, and the mock has no keys: give --open to answer every client"
        raise InputError([Problem(message, field="--host")])
    with Interrupt("stopping; again to stop at once") as interrupt:
        output.notice(
            f"serving on http://{shown_address(listener)} (mock: /stream shows it, /v1/stream is the protocol)"
        )
        process.serve_mock(settings, StreamService.mock(file), listener, interrupt.event, allowed_origins=origins)
    return 0


def _key_rule(database: Database, open_: bool, *, is_loopback: bool) -> KeyRule:
    """Raises InputError: the server would be reached from elsewhere, and nobody has a key."""
    if open_:
        return KeyRule.NEVER
    if is_loopback:
        return KeyRule.ONCE_ANY_EXISTS
    try:
        with database.reading() as session:
            usable = api_keys.usable(session)
    except ServiceUnavailableError:  # it is waited for; meanwhile nobody is let in
        return KeyRule.ALWAYS
    if not usable:
        message = (
            "other machines can reach this address, and there is no key: create one with `vgen keys create NAME`, "
            "or give --open to answer every client"
        )
        raise InputError([Problem(message, field="--host")])
    return KeyRule.ALWAYS


def _origins(values: list[str]) -> list[str]:
    """Raises InputError."""
    wrong = [value for value in values if not _ORIGIN.fullmatch(value)]
    if wrong:
        rule = "use scheme, host and port, such as https://example.org"
        raise InputError([Problem(f"{value!r} is not an origin: {rule}", field="--allow-origin") for value in wrong])
    return values
