"""The interface of the Stable Video Generation Service: an image in, a task to ask about, a video out."""

from server.svd.routes import router

__all__ = ["router"]
