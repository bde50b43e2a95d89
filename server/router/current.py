"""What all parts of a router share."""

from dataclasses import dataclass

from server.router.config import RouterConfig


@dataclass
class Current:
    """The configuration in use, which another takes the place of while the router runs."""

    config: RouterConfig
    identity: bytes
    """What this router is called in ``Via``, unlike any other: by it a request that comes in a circle is known."""
