"""What `vgen bench preset` measured of a preset's unaccelerated clip, kept beside the user's presets."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import InputError
from pipeline.files.drafts import draft_of
from pipeline.files.private import private_folder
from pipeline.files.regular import read_regular_file

_LIMIT_BYTES = 64 * 1024


class PlainClip(BaseModel):
    """One plain clip: how long it took, and what it was."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    gpu_type: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    num_frames: int = Field(ge=1)
    steps: int = Field(ge=1)
    seconds: float = Field(gt=0)


def write(folder: Path, preset: str, clip: PlainClip) -> Path:
    """Keep the measurement, over an earlier one."""
    private_folder(folder)
    path = _path(folder, preset)
    with draft_of(path) as draft:
        draft.write_text(clip.model_dump_json() + "\n", "utf-8")
    return path


def read(folder: Path, preset: str) -> PlainClip | None:
    """The measurement; None where there is none that can be read."""
    try:
        data = read_regular_file(_path(folder, preset), what="the measurement", limit_bytes=_LIMIT_BYTES)
        return PlainClip.model_validate_json(data)
    except (InputError, OSError, ValidationError):
        return None


def _path(folder: Path, preset: str) -> Path:
    return folder / f"{preset}.bench.json"
