"""A job with an input image and a model that makes sound, through the whole line and by the Python interface: LTX-2's
own class at tiny size."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from db.session import Database
from pipeline.encoding.sound import decode
from pipeline.settings import Settings
from pipeline.states import JobState
from pipeline.wiring import make_storage
from tests.line_helpers import (
    artifacts_of,
    assert_published_once,
    home_of,
    job_list,
    job_states,
    left_in_handoff,
    settings_for,
    sidecar_of,
    submit,
    work_off,
)
from tests.tiny_pipelines import TINY_INPUTS
from vgen import VideoGenerator, VideoRequest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def heard_of(settings: Settings, database: Database, job_id: str, folder: Path) -> tuple[dict[str, Any], Any]:
    """The sidecar, and the sound of the published file: samples × channels."""
    sidecar = sidecar_of(settings, database, job_id)
    make_storage(settings).download(artifacts_of(database, job_id)["video"].key, folder / "heard.mp4")
    made = {"fps": 8, "num_frames": sidecar["frames"]["num_frames"], "check": lambda: None}
    decode(folder / "heard.mp4", folder / "heard", **made)
    return sidecar, np.fromfile(folder / "heard", "<f4").reshape(-1, 2)


def test_an_image_becomes_a_clip_with_a_track_of_sound(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    TINY_INPUTS["ltx2-image"].save(tmp_path / "model", settings.effective_presets_dir, "tiny-ltx2")
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "first.png")
    line = {"prompt": "rain", "seed": 5, "preset": "tiny-ltx2", "image": "first.png", "num_inference_steps": 2}
    long = {**line, "fps": 8, "segments": 2, "num_frames": 25}
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{**line, "fps": 8}, long])
        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * 2
        assert_published_once(settings, database, batch_id)
        assert left_in_handoff(settings) == []
        job, of_two = job_list(database, batch_id)
        sidecar = sidecar_of(settings, database, job.id)
        make_storage(settings).download(artifacts_of(database, job.id)["video"].key, tmp_path / "v.mp4")
        segments, sound = heard_of(settings, database, of_two.id, tmp_path)

        assert left_in_handoff(settings) == []

    # Segments' sounds are one sound, as long as the pictures
    assert segments["frames"]["num_frames"] == 25 + 16
    samples = 41 * segments["sound"]["sample_rate"] // 8
    assert (segments["sound"]["num_samples"], sound.shape) == (samples, (samples, 2))
    assert np.abs(sound).max() > 0

    seconds = 9 / 8
    assert sidecar["sound"]["num_samples"] == round(seconds * sidecar["sound"]["sample_rate"])
    assert len(sidecar["sound"]["sha256"]) == 64
    assert sidecar["video"]["sound"]["codec"] == "aac"
    with av.open(str(tmp_path / "v.mp4")) as video:
        assert [stream.type for stream in video.streams] == ["video", "audio"]
        rate = video.streams.audio[0].codec_context.sample_rate
        heard = np.concatenate([frame.to_ndarray() for frame in video.decode(audio=0)], axis=1)
    assert rate == sidecar["sound"]["sample_rate"]
    assert heard.shape[0] == sidecar["sound"]["channels"] == 2
    assert abs(heard.shape[1] / rate - seconds) <= 2 * 1024 / rate
    assert np.abs(heard).max() > 0

    # The same request from Python, of the model's folder: the same frames and the same sound.
    fields = tomllib.loads((settings.effective_presets_dir / "tiny-ltx2.toml").read_text("utf-8"))
    model, extends = fields.pop("model"), fields.pop("extends")
    request = VideoRequest.of_mapping({**line, "fps": 8, "preset": None, "image": tmp_path / "first.png"})
    with VideoGenerator.from_pretrained(model, extends=extends, fields=fields, settings=settings) as generator:
        presets = generator._settings.effective_presets_dir
        assert presets.is_dir()
        made = generator.generate(request, output=tmp_path / "again.mp4")
    assert not presets.exists()
    assert made.frames_sha256 == sidecar["frames"]["sha256"]
    assert made.numerics == sidecar["numerics"]
    assert made.sidecar is not None
    assert made.sidecar["sound"] == sidecar["sound"]
