"""A generator's child in a folder of its own, and one cache of the tiny model for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.generators.base import GenerationRequest
from pipeline.generators.frames_file import frames_size
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.settings import load_settings
from pipeline.spec import JobSpec

MakeRequest = Callable[..., GenerationRequest]


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def make_request(tmp_path: Path) -> MakeRequest:
    """A request for a small clip whose frames file is reserved."""

    def make(preset: str = "idle", *, image: Path | None = None, **changes: object) -> GenerationRequest:
        values: dict[str, object] = {
            "prompt": "a lighthouse at dusk",
            "seed": 7,
            "preset": preset,
            "width": 64,
            "height": 48,
            "num_frames": 9,
            "fps": 8,
            "num_inference_steps": 4,
            "guidance_scale": 5.0,
        }
        spec = JobSpec.model_validate({**values, **changes})
        path = tmp_path / f"{len(list(tmp_path.glob('*.rgb')))}.rgb"
        path.write_bytes(bytes(frames_size(spec)))
        return GenerationRequest(spec=spec, prompt=spec.prompt, frames_path=path, image=image)

    return make


@pytest.fixture
def generator(tmp_path: Path, model_cache: Path) -> Iterator[GeneratorProcess]:
    settings = load_settings(home=tmp_path / "vgen", cache_dir=model_cache)
    with GeneratorProcess(settings) as process:
        yield process
