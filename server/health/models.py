"""``/v1/models``: the presets that can be asked for. The default one is the first."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from pipeline.presets import Preset, load_library
from pipeline.presets.library import Library
from pipeline.presets.preset import CATALOGUE
from pipeline.settings import Settings
from server.auth import require
from server.database import ServedLine
from server.errors import ApiError

router = APIRouter(tags=["models"], dependencies=[Depends(require("videos.read"))])


class ModelCard(BaseModel):
    """A preset, as OpenAI's SDKs read a model."""

    id: str
    object: str = "model"
    created: int = Field(description="When the preset's file was last changed on this server.")
    owned_by: str = Field(description="vgen for a preset of its catalogue, else user.")
    root: str = Field(description="The model's repository; its name where that is a folder of the server.")
    description: str
    workload: str = Field(description="t2v, i2v, …: what goes in and what comes out.")
    size: str
    num_frames: int
    fps: float
    licence: str | None


class ModelList(BaseModel):
    object: str = "list"
    data: list[ModelCard]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class ModelInfo(BaseModel):
    """The default preset."""

    model_path: str
    preset: str


@router.get("/models")
def models(line: ServedLine) -> ModelList:
    """List the presets."""
    library = _library(line.settings)
    names = [name for name, preset in library.presets.items() if not preset.hidden]
    names.sort(key=lambda name: (name != line.settings.preset, name))
    cards = [_card(library, name) for name in names]
    return ModelList(data=cards, first_id=cards[0].id, last_id=cards[-1].id)


@router.get("/models/{model:path}")
def model(model: str, line: ServedLine) -> ModelCard:
    """Return one preset."""
    library = _library(line.settings)
    if model not in library.presets:
        raise ApiError(404, f"The model {model!r} does not exist", code="model_not_found", param="model")
    return _card(library, model)


@router.get("/model_info")
def model_info(line: ServedLine) -> ModelInfo:
    """Return the preset of requests that name none."""
    name = line.settings.preset
    return ModelInfo(model_path=_root(_library(line.settings).get(name)), preset=name)


def _library(settings: Settings) -> Library:
    return load_library(settings.effective_presets_dir)


def _card(library: Library, name: str) -> ModelCard:
    preset: Preset = library.presets[name]
    own = library.files.get(name)
    return ModelCard(
        id=name,
        created=int(_file(own, name).stat().st_mtime),
        owned_by="vgen" if own is None else "user",
        root=_root(preset),
        description=preset.description,
        workload=preset.workload,
        size=f"{preset.defaults.width}x{preset.defaults.height}",
        num_frames=preset.defaults.num_frames,
        fps=preset.defaults.fps,
        licence=preset.licence,
    )


def _root(preset: Preset) -> str:
    return preset.name if Path(preset.repo).is_absolute() else preset.repo


def _file(own: Path | None, name: str) -> Path:
    return CATALOGUE / f"{name}.toml" if own is None else own
