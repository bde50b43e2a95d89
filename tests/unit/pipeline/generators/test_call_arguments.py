"""What a pipeline's call is given."""

from __future__ import annotations

import pytest

from pipeline.errors import RefusedError
from pipeline.generators.call_arguments import call_arguments
from pipeline.presets import get_preset
from pipeline.spec import JobSpec

SPEC = JobSpec(
    prompt="p",
    seed=1,
    preset="tiny-wan",
    width=64,
    height=48,
    num_frames=9,
    fps=12,
    num_inference_steps=4,
    guidance_scale=5.0,
)


def call(prompt, width, height, num_frames, num_inference_steps, guidance_scale=1.0, frame_rate=25) -> None:  # type: ignore[no-untyped-def]
    """A call like those of diffusers' text-to-video pipelines."""


def test_frame_rate_is_passed_where_the_model_reads_it() -> None:
    assert call_arguments(call, get_preset("tiny-wan"), SPEC, "p", {})["frame_rate"] == 12


def test_enhanced_prompt_is_the_one_passed() -> None:
    assert call_arguments(call, get_preset("tiny-wan"), SPEC, "enhanced", {})["prompt"] == "enhanced"


def test_guidance_is_left_to_the_guider() -> None:
    arguments = call_arguments(call, get_preset("tiny-wan"), SPEC, "p", {}, has_guider=True)
    assert "guidance_scale" not in arguments


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"negative_prompt": "dull"}, "negative_prompt"), ({"guidance_scale_2": 3.0}, "guidance_scale_2")],
)
def test_field_without_an_argument_is_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(RefusedError, match=f"{field}: .* is given") as caught:
        call_arguments(call, get_preset("tiny-wan"), SPEC.model_copy(update=changes), "p", {})
    assert caught.value.code == "field_unsupported"
