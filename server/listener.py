"""The socket that a server listens on."""

import ipaddress
import socket

from pipeline.errors import InputError, Problem


def listen(host: str, port: int, *, field: str = "--host or --port") -> socket.socket:
    """Open the server's socket; messages say that its address is what ``field`` names.

    Raises InputError: somebody else has the port, or the address is not this host's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while attempting")[0]
        message = f"{host}:{port} cannot be listened on: {reason}"
        raise InputError([Problem(message, field=field)]) from None
    # Its connections inherit this. asyncio sets it on sockets alone that were made with the number of TCP, and without
    # it what is sent after a part that the client has not acknowledged waits for its delayed acknowledgement: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can reach the socket."""
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def shown_address(listener: socket.socket) -> str:
    """Return ``HOST:PORT`` as it is written in URLs."""
    address, port = listener.getsockname()[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
