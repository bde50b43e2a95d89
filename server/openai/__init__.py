"""The part of OpenAI's API that makes videos, with the fields that other servers of video models have added."""

from server.openai.videos import router

__all__ = ["router"]
