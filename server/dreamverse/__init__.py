"""``/ws``: the protocol of Dreamverse's page, over the sessions of ``server.stream``."""

from server.dreamverse.routes import router

__all__ = ["router"]
