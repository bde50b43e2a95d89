"""Real diffusers classes at tiny size, loaded from disk by the code that loads the published models."""

from __future__ import annotations

import hashlib
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import FatalError, OutOfMemoryError, RefusedError, StoppedError
from pipeline.generators.base import Phase, Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.models.pipeline_class import pipeline_class
from pipeline.models.tiny_wan import ensure_tiny_wan
from pipeline.presets import Preset, get_preset
from tests.tiny_pipelines import stable_video_diffusion
from tests.unit.pipeline.generators.conftest import MakeRequest

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def ignore(_: Progress) -> None:
    pass


@pytest.fixture(scope="module")
def wan(model_cache: Path) -> DiffusersVideoGenerator:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)
    return generator


@pytest.fixture(scope="module")
def svd_preset(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """The catalogue's svd-xt on a pipeline of its class with random weights."""
    folder = tmp_path_factory.mktemp("tiny-svd")
    torch.manual_seed(0)
    stable_video_diffusion().save_pretrained(folder)
    return get_preset("svd-xt").model_copy(update={"repo": str(folder)})


def picture(path: Path, size: tuple[int, int] = (90, 40)) -> Path:
    columns = np.linspace(0, 255, size[0], dtype=np.uint8)
    Image.fromarray(np.repeat(np.tile(columns, (size[1], 1))[:, :, None], 3, axis=2)).save(path)
    return path


def test_frames_are_those_of_the_pipeline_called_by_hand(
    wan: DiffusersVideoGenerator, model_cache: Path, make_request: MakeRequest
) -> None:
    request = make_request("tiny-wan", negative_prompt="blurry")
    result = wan.generate(request, ignore)
    by_hand = diffusers.WanPipeline.from_pretrained(ensure_tiny_wan(model_cache))
    by_hand.set_progress_bar_config(disable=True)
    video = by_hand(
        request.prompt,
        "blurry",
        height=48,
        width=64,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
    ).frames[0]
    pixels = (video * 255).round().astype("uint8")
    assert result.frames_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert request.frames_path.read_bytes() == pixels.tobytes()


def test_numerics_name_what_pixels_depend_on(wan: DiffusersVideoGenerator, make_request: MakeRequest) -> None:
    result = wan.generate(make_request("tiny-wan"), ignore)
    assert result.numerics["torch"] == torch.__version__
    assert result.numerics["diffusers"] == diffusers.__version__
    assert result.numerics["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert result.facts["random_weights"] is True


def test_stop_leaves_the_model_usable(wan: DiffusersVideoGenerator, make_request: MakeRequest) -> None:
    expected = wan.generate(make_request("tiny-wan"), ignore).frames_sha256

    def stop(progress: Progress) -> None:
        if progress == Progress(Phase.DENOISE, 2, 4):
            raise StoppedError("drain")

    with pytest.raises(StoppedError, match="drain"):
        wan.generate(make_request("tiny-wan"), stop)
    assert wan.generate(make_request("tiny-wan"), ignore).frames_sha256 == expected


@pytest.mark.parametrize("reserved", [0, 100])
def test_file_that_was_not_reserved_at_the_clips_size(
    wan: DiffusersVideoGenerator, make_request: MakeRequest, reserved: int
) -> None:
    request = make_request("tiny-wan")
    request.frames_path.write_bytes(bytes(reserved))
    with pytest.raises(FatalError, match="bytes") as caught:
        wan.generate(request, ignore)
    assert caught.value.code == "frames_mismatch"


def test_frames_that_are_not_numbers_are_refused(model_cache: Path, make_request: MakeRequest) -> None:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)
    with torch.no_grad():
        generator._pipe.vae.post_quant_conv.weight.fill_(float("nan"))
    with pytest.raises(FatalError, match="not finite") as caught:
        generator.generate(make_request("tiny-wan"), ignore)
    assert caught.value.code == "nan_frames"


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (torch.OutOfMemoryError("tried to allocate 2 GiB"), OutOfMemoryError, "2 GiB"),
        (RuntimeError("shapes differ"), FatalError, "RuntimeError: shapes differ"),
    ],
)
def test_errors_of_the_library_are_translated(
    model_cache: Path, make_request: MakeRequest, raised: Exception, expected: type[Exception], text: str
) -> None:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)

    def fail(*_: object) -> None:
        raise raised

    generator._pipe.transformer.register_forward_pre_hook(fail)
    with pytest.raises(expected, match=text):
        generator.generate(make_request("tiny-wan"), ignore)


def test_frame_count_that_the_pipeline_rounds_is_refused(
    wan: DiffusersVideoGenerator, make_request: MakeRequest
) -> None:
    with pytest.raises(FatalError, match=r"frames are \(9, .*expected \(10,"):
        wan.generate(make_request("tiny-wan", num_frames=10), ignore)


def test_image_for_a_text_model_is_refused(
    wan: DiffusersVideoGenerator, make_request: MakeRequest, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="image: a value is given, but WanPipeline takes none"):
        wan.generate(make_request("tiny-wan", image=picture(tmp_path / "p.png")), ignore)


def test_model_that_was_not_pulled(model_cache: Path) -> None:
    with pytest.raises(RefusedError, match=r"vgen models pull wan2\.1-t2v-14b") as caught:
        DiffusersVideoGenerator(model_cache).load("wan2.1-t2v-14b", ignore)
    assert caught.value.code == "model_missing"


@pytest.mark.parametrize("name", ["NoSuchPipeline", "AutoencoderKLWan"])
def test_class_that_is_no_pipeline(name: str) -> None:
    with pytest.raises(RefusedError, match=name):
        pipeline_class(name)


def test_stable_video_diffusion(svd_preset: Preset, make_request: MakeRequest, tmp_path: Path) -> None:
    generator = DiffusersVideoGenerator(tmp_path)
    generator.load_preset(svd_preset, ignore)
    image = picture(tmp_path / "p.png")
    shape = {"width": 64, "height": 64, "num_frames": 3, "fps": 7, "num_inference_steps": 3, "guidance_scale": 3.0}

    seen: list[Progress] = []
    result = generator.generate(make_request("svd-xt", image=image, **shape), seen.append)
    again = generator.generate(make_request("svd-xt", image=image, **shape), ignore)
    faster = generator.generate(make_request("svd-xt", image=image, **{**shape, "fps": 14}), ignore)
    stronger = generator.generate(make_request("svd-xt", image=image, **{**shape, "guidance_scale": 9.0}), ignore)

    assert [p.step for p in seen if p.phase is Phase.DENOISE] == [1, 2, 3]
    assert (result.num_frames, result.height, result.width) == (3, 64, 64)
    assert result.facts["prompt_used"] is False
    assert result.model_revision.startswith("files-")
    assert again.frames_sha256 == result.frames_sha256
    assert len({result.frames_sha256, faster.frames_sha256, stronger.frames_sha256}) == 3


def test_stable_video_diffusion_refuses_what_it_cannot(
    svd_preset: Preset, make_request: MakeRequest, tmp_path: Path
) -> None:
    generator = DiffusersVideoGenerator(tmp_path)
    generator.load_preset(svd_preset, ignore)
    image = picture(tmp_path / "p.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:60])
    shape = {"width": 64, "height": 64, "num_frames": 3, "num_inference_steps": 1}
    for request, text in (
        (make_request("svd-xt", **shape), "image: is required by"),
        (make_request("svd-xt", image=broken, **shape), "image: cannot be read"),
        (make_request("svd-xt", image=image, negative_prompt="dull", **shape), "negative_prompt: 'dull' is given"),
        (make_request("svd-xt", image=image, **shape, fps=7.5), "fps: 7.5 is not a whole number"),
    ):
        with pytest.raises(RefusedError, match=text):
            generator.generate(request, ignore)
