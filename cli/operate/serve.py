"""`vgen serve`: the line over HTTP, in the foreground; in solo mode this process works it off, too."""

import re
from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.interrupt import Interrupt
from cli.operate.workers import require_schema
from db import api_keys
from db.session import Database
from pipeline import extras
from pipeline.errors import InputError, Problem, ServiceUnavailableError
from service.keys import KeyRule

_ORIGIN = re.compile(r"https?://[^/?#@\s*]+")


def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    open_: Annotated[
        bool, typer.Option("--open", help="Answer without keys, whoever asks, and whatever the address.")
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="A site whose pages may call the server; repeatable."),
    ] = None,
) -> int:
    """Serve the line over HTTP, in the foreground; in solo mode work it off, too. Ctrl-C or SIGTERM drains."""
    from db import schema

    extras.require(extras.SERVE, purpose="what `vgen serve` answers with")
    from server import process
    from server.listener import is_loopback, listen, shown_address

    settings, origins = settings_of(ctx), _origins(allow_origin or [])
    if settings.solo:
        extras.require(extras.GENERATE, purpose="what makes the clips of a server in solo mode")
    listener = listen(host, port)
    database = Database(settings.effective_database_url)
    try:
        if database.is_sqlite:
            schema.upgrade(database)
        else:
            require_schema(settings)
        rule = _key_rule(database, open_, is_loopback=is_loopback(listener))
        with Interrupt("stopping: what runs is answered and given back; again to stop at once") as interrupt:
            output.notice(f"serving on http://{shown_address(listener)}")
            process.serve(settings, database, listener, interrupt.event, key_rule=rule, allowed_origins=origins)
    finally:
        database.close()
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
            "others can reach this address, and there is no key: make one with `vgen keys create NAME`, "
            "or give --open to serve whoever asks"
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
