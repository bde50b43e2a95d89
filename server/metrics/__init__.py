"""``/metrics``: what Prometheus reads, from rows alone."""

from server.metrics.routes import router

__all__ = ["router"]
