"""`vgen router-serve`: one address before several servers, in the foreground."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.interrupt import Interrupt
from pipeline import extras


def router_serve(
    ctx: typer.Context,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML file with a mapping `router:`.")],
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on, instead of the file's.")] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port to listen on, instead of the file's; 0: any free one."),
    ] = None,
) -> int:
    """Put several servers behind one address, for HTTP and WebSockets, in the foreground. Ctrl-C or SIGTERM drains."""
    extras.require(extras.SERVE, purpose="what `vgen router-serve` answers with")
    from server.listener import is_loopback, listen, shown_address
    from server.router import process
    from server.router.config import read_admin_key, read_config

    settings_of(ctx)
    chosen = read_config(config)
    chosen = replace(chosen, host=chosen.host if host is None else host, port=chosen.port if port is None else port)
    admin_key = None if chosen.admin_key_file is None else read_admin_key(chosen.admin_key_file)
    listener = listen(chosen.host, chosen.port, field="router.host or router.port")
    if not is_loopback(listener):
        output.notice("others can reach this address: every replica must ask for keys (`vgen keys create`)")
    with Interrupt("draining: running sessions continue; press again to stop at once") as interrupt:
        output.notice(f"routing on http://{shown_address(listener)}")
        process.run(chosen, listener, interrupt.event, admin_key=admin_key)
    return 0
