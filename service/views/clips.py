"""Views of clips: their files, their continuation state, and the result of `vgen generate`."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from db.models import ArtifactRow
from service.views.base import View

_KINDS = ("video", "poster", "strip", "sidecar")


class FileView(View):
    """A published object."""

    kind: str = Field(description="video, poster, strip or sidecar.")
    key: str
    sha256: str
    size: int = Field(description="Bytes.")
    media_type: str
    url: str | None = Field(description="The URL, with --urls, or file:// where the store is a folder.")


class StateView(View):
    """What `state export` wrote."""

    job_id: str
    file: str
    kind: str
    version: int


class GeneratedView(View):
    """What `generate` made."""

    video: str = Field(description="Path of the MP4.")
    sidecar: str = Field(description="Path of its sidecar.")
    prompt: str
    prompt_used: str = Field(description="The enhanced prompt, where enhancing was on.")
    seed: int
    preset: str
    width: int
    height: int
    num_frames: int
    fps: float
    frames_sha256: str = Field(description="The digest of the raw frames: the clip's identity.")
    model_revision: str
    timings_s: dict[str, float] = Field(description="Seconds of each phase of the generation.")
    generation_time_s: float = Field(description="Seconds from the request to the frames, without loading the model.")
    peak_memory_bytes: int | None


def file_views(artifacts: Mapping[str, ArtifactRow], urls: Mapping[str, str]) -> list[FileView]:
    """A job's files, the video first; ``urls`` by key."""
    ordered: Sequence[str] = sorted(artifacts, key=lambda kind: (*_KINDS, kind).index(kind))
    return [FileView.of(artifacts[kind], url=urls.get(artifacts[kind].key)) for kind in ordered]
