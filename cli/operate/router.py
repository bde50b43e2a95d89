"""`vgen router-serve`: one address before several servers, in the foreground."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

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
    """Put several servers behind one address, for HTTP and WebSockets, in the foreground. Ctrl-C or SIGTERM drains.

    SIGHUP makes it read the file again; if that has mistakes, the old configuration stays.
    """
    extras.require(extras.SERVE, purpose="what `vgen router-serve` answers with")
    from server.listener import is_loopback, listen, shown_address
    from server.router import process
    from server.router.config import RouterConfig, read_admin_key, read_config

    settings_of(ctx)
    given: dict[str, Any] = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    fixed: dict[str, Any] = {}

    def read() -> tuple[RouterConfig, str | None]:
        chosen = replace(read_config(config, fixed=fixed), **given)
        return chosen, None if chosen.admin_key_file is None else read_admin_key(chosen.admin_key_file)

    first = read()
    fixed |= {name: getattr(first[0], name) for name in ("host", "port") if name not in given}
    listener = listen(first[0].host, first[0].port, field="router.host or router.port")
    if not is_loopback(listener):
        output.notice("other machines can reach this address: every replica must require keys (`vgen keys create`)")
    orders = process.Orders()
    message = "draining: running sessions continue; press again to stop at once"
    with Interrupt(message, event=orders.stop, on_hangup=orders.reload.set):
        output.notice(f"routing on http://{shown_address(listener)}")
        process.run(read, first, listener, orders)
    return 0
