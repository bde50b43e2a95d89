"""What a job's input pictures do to the clip, with the real classes at tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import RefusedError
from pipeline.generators.base import GenerationRequest, Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.presets import load_library
from pipeline.spec import JobSpec
from tests.tiny_pipelines import TINY_INPUTS, WAN_VIDEO, TinyPipeline
from tests.unit.pipeline.generators.conftest import MakeRequest
from tests.videos import write_video

pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")]


def ignore(_: Progress) -> None:
    pass


def loaded(tiny: TinyPipeline, folder: Path) -> DiffusersVideoGenerator:
    tiny.save(folder / "model", folder / "presets", "tiny")
    generator = DiffusersVideoGenerator(folder / "cache")
    generator.load_preset(load_library(folder / "presets").get("tiny"), ignore)
    return generator


def frames(generator: DiffusersVideoGenerator, request: GenerationRequest, **inputs: object) -> str:
    return generator.generate(replace(request, **inputs), ignore).frames_sha256  # type: ignore[arg-type]


def picture(path: Path, turn: int = 0) -> Path:
    Image.linear_gradient("L").convert("RGB").rotate(turn).save(path)
    return path


def test_the_last_frame_changes_the_clip(tmp_path: Path, make_request: MakeRequest) -> None:
    tiny = TINY_INPUTS["wan-two-image"]
    generator = loaded(tiny, tmp_path)
    request = make_request("tiny", num_inference_steps=2, image=picture(tmp_path / "a.png"), **tiny.clip)
    last, other = picture(tmp_path / "b.png", 90), picture(tmp_path / "c.png", 180)

    made = {frames(generator, request), frames(generator, request, last_image=last)}
    made.add(frames(generator, request, last_image=other))

    assert len(made) == 3
    assert frames(generator, request, last_image=last) in made


def test_a_control_video_and_references_change_the_clip(tmp_path: Path, make_request: MakeRequest) -> None:
    tiny = TINY_INPUTS["wan-vace"]
    generator = loaded(tiny, tmp_path)
    request = make_request("tiny", num_inference_steps=2, **tiny.clip)
    video = write_video(tmp_path / "v.mp4", [Image.new("RGB", (48, 32), (9 * n, 80, 80)) for n in range(12)])
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 90)

    made = [frames(generator, request)]
    made.append(frames(generator, request, video=video))
    made.append(frames(generator, request, reference_images=(first,)))
    made.append(frames(generator, request, reference_images=(first, second)))
    made.append(frames(generator, request, reference_images=(second, first)))

    assert len(set(made)) == len(made)


def test_a_video_is_made_over(tmp_path: Path, make_request: MakeRequest) -> None:
    generator = loaded(WAN_VIDEO, tmp_path)
    request = make_request("tiny", num_inference_steps=3, **WAN_VIDEO.clip)
    longer = [Image.new("RGB", (48, 32), (9 * n, 80, 80)) for n in range(12)]
    video = write_video(tmp_path / "v.mp4", longer)
    other = write_video(tmp_path / "w.mp4", longer[::-1])

    assert frames(generator, request, video=video) == frames(generator, request, video=video)
    assert frames(generator, request, video=video) != frames(generator, request, video=other)
    with pytest.raises(RefusedError, match="has 5 frames, and the clip has 9") as caught:
        frames(generator, request, video=write_video(tmp_path / "s.mp4", longer[:5]))
    assert caught.value.code == "video_too_short"
    (tmp_path / "x.mp4").write_bytes(video.read_bytes()[:300])
    with pytest.raises(RefusedError, match="cannot be read") as caught:
        frames(generator, request, video=tmp_path / "x.mp4")
    assert caught.value.code == "video_unreadable"


def test_a_class_with_sizes_of_its_own_refuses_others_before_it_runs(tmp_path: Path, make_request: MakeRequest) -> None:
    tiny = TINY_INPUTS["hunyuan15-image"]
    generator = loaded(tiny, tmp_path)
    image = picture(tmp_path / "a.png")
    request = make_request("tiny", num_inference_steps=2, image=image, **{**tiny.clip, "width": 32, "height": 32})
    with pytest.raises(RefusedError, match=r"size: 32x32 cannot be made .* nearest: 16x16"):
        generator.generate(request, ignore)


def test_a_spec_names_its_inputs_in_order() -> None:
    ref = {"sha256": "0" * 64, "media_type": "image/png", "name": "a"}
    spec = JobSpec.model_validate(
        {
            "prompt": "p", "seed": 1, "preset": "x", "width": 16, "height": 16, "num_frames": 1, "fps": 8,
            "num_inference_steps": 1, "guidance_scale": 1, "image": ref, "last_image": {**ref, "sha256": "1" * 64},
            "reference_images": [{**ref, "sha256": "2" * 64}],
        }
    )  # fmt: skip
    assert [found.sha256[0] for found in spec.input_refs] == ["0", "1", "2"]
