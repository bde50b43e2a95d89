"""Whether the server is at work and can be used, the GPU workers behind it, and the models that it offers."""

from server.health.models import router as models_router
from server.health.probes import router as probes_router

__all__ = ["models_router", "probes_router"]
