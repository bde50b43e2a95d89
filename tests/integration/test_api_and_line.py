"""The Python interface and the line make the same frames of the same request."""

from __future__ import annotations

from pathlib import Path

import pytest

from api import VideoGenerator, VideoRequest
from pipeline.errors import InputError
from tests.line_helpers import home_of, job_list, settings_for, sidecar_of, submit, work_off

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
FOX = {"prompt": "a fox", "num_frames": 5, "width": 64, "height": 48, "num_inference_steps": 2}


def test_a_model_in_a_folder_makes_the_frames_of_the_line(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{**FOX, "preset": "tiny-wan", "seed": 7}])
        work_off(settings, database, batch_id)
        line = sidecar_of(settings, database, job_list(database, batch_id)[0].id)

    model = settings.effective_cache_dir / "models"
    (folder,) = (path.parent for path in model.rglob("model_index.json"))
    with pytest.raises(InputError, match=r"extends: is needed, since the model's class is WanPipeline.*tiny-wan"):
        VideoGenerator.from_pretrained(folder, settings=settings)
    with VideoGenerator.from_pretrained(folder, extends="tiny-wan", settings=settings) as generator:
        presets = generator._settings.effective_presets_dir
        assert presets.is_dir()
        made = generator.generate(VideoRequest.of_mapping({**FOX, "seed": 7}))
    assert not presets.exists()
    assert made.frames_sha256 == line["frames"]["sha256"]
    assert made.numerics == line["numerics"]
