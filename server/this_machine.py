"""Whether a request is of this machine: by its ``Host`` header, and by what proxies say of its client."""

import ipaddress

from starlette.datastructures import Headers


def comes_from_this_machine(headers: Headers) -> bool:
    """Return whether every client that proxies name in ``X-Forwarded-For`` is this machine; True without one."""
    clients = [part.strip() for value in headers.getlist("x-forwarded-for") for part in value.split(",")]
    return all(names_this_machine(f"[{client}]" if ":" in client else client) for client in clients)


def names_this_machine(host: str) -> bool:
    """Return whether a Host header names this machine by what no other site can be called."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
