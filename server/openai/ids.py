"""Ids of videos: a job's own, with a prefix that says what it is."""

import re

ID_PREFIX = "video_"
_VIDEO_ID = re.compile(r"(?:video_)?[0-9a-z]{1,20}-[0-9]{1,12}")


def video_id(job_id: str) -> str:
    return f"{ID_PREFIX}{job_id}"


def job_id_of(video_id: str) -> str:
    return video_id.removeprefix(ID_PREFIX)


def is_video_id(text: str) -> bool:
    """Return whether it could be an id: what could not is not looked for."""
    return _VIDEO_ID.fullmatch(text) is not None
