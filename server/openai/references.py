"""Pictures and videos that a request refers to: by URL, as data, as one of its files, or by the id of a video."""

from collections.abc import Callable, Mapping

from pipeline.prompts.numbers import show
from server.openai.ids import ID_PREFIX

ClipFile = Callable[[str], str]
"""The name of a finished video's file, by its id. Raises ApiError: there is none."""
_URLS = ("image_url", "video_url", "url")
_IDS = ("id", "video_id")


def reference(value: object, is_video: bool, clip_file: ClipFile) -> str:
    """Return what the field of a prompt file says for it. Raises ValueError with the value and the rule."""
    if isinstance(value, Mapping):
        return _of_mapping(value, is_video, clip_file)
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not a valid reference: give a URL, a data URL, or upload the file")
    return clip_file(value) if is_video and value.startswith(ID_PREFIX) else value


def _of_mapping(value: Mapping[str, object], is_video: bool, clip_file: ClipFile) -> str:
    given = {name: item for name, item in value.items() if item is not None}
    given.pop("type", None)
    if len(given) != 1:
        raise ValueError(f"{show(dict(value))} is not a valid reference: give one of image_url, video_url, url, id")
    name, item = next(iter(given.items()))
    if name == "file_id":
        raise ValueError(f"file_id {show(item)} is not a file of this server: upload it here, or give a URL")
    if name in _IDS and isinstance(item, str) and is_video:
        return clip_file(item)
    if name in _URLS and isinstance(item, Mapping):
        return _of_mapping(item, is_video, clip_file)
    if name in _URLS and isinstance(item, str):
        return item
    raise ValueError(f"{show(dict(value))} is not a valid reference: give one of image_url, video_url, url, id")
