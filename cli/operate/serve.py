"""`vgen serve`: the line over HTTP, in the foreground; in solo mode this process works it off, too."""

from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.interrupt import Interrupt
from cli.operate.workers import require_schema
from db.session import Database


def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
) -> int:
    """Serve the line over HTTP, in the foreground; in solo mode work it off, too. Ctrl-C or SIGTERM drains."""
    from db import schema
    from server import process

    settings = settings_of(ctx)
    listener = process.listen(host, port)
    database = Database(settings.effective_database_url)
    try:
        if database.is_sqlite:
            schema.upgrade(database)
        else:
            require_schema(settings)
        with Interrupt("stopping: what runs is answered and given back; again to stop at once") as interrupt:
            address, bound = listener.getsockname()[:2]
            shown = f"[{address}]" if ":" in address else address
            output.notice(f"serving on http://{shown}:{bound}")
            process.serve(settings, database, listener, interrupt.event)
    finally:
        database.close()
    return 0
