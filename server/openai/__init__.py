"""The part of OpenAI's API that makes videos, with the fields that other servers of video models have added."""

from fastapi import APIRouter

from server.openai import derived, videos

router = APIRouter()
router.include_router(derived.router)  # first: its paths have names where the others have ids
router.include_router(videos.router)

__all__ = ["router"]
