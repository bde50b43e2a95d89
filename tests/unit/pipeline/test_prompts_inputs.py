"""Images, videos and references of a prompt file: found, checked against the preset, and counted in the fingerprint."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.prompts import Submission, parse
from pipeline.settings import load_settings
from tests.videos import write_video


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    write_video(tmp_path / "v.mp4", [Image.new("RGB", (32, 32), (n, 0, 0)) for n in range(9)])


def read(folder: Path, *lines: dict[str, object], **overrides: object) -> Submission:
    file = folder / "p.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": "x", **line}) for line in lines), "utf-8")
    return parse(file, overrides=overrides, settings=load_settings(home=folder / "home"))


def problems(folder: Path, *lines: dict[str, object]) -> list[tuple[int | None, str | None, str]]:
    with pytest.raises(InputError) as caught:
        read(folder, *lines)
    return [(problem.line, problem.field, problem.message) for problem in caught.value.problems]


def test_every_kind_of_input_is_stored_once_and_named_by_its_job(tmp_path: Path) -> None:
    vace = {"preset": "wan2.1-vace-1.3b", "num_frames": 5, "video": "v.mp4"}
    submission = read(
        tmp_path,
        {"preset": "wan2.1-flf2v-14b-720p", "image": "a.png", "last_image": "b.png"},
        {**vace, "reference_images": ["b.png", "a.png"]},
        {**vace, "reference_images": "a.png"},
    )
    first, second, third = (job.spec for job in submission.jobs)
    assert first.last_image is not None
    assert first.last_image.name == "b.png"
    assert [ref.name for ref in second.reference_images] == ["b.png", "a.png"]
    assert [ref.name for ref in third.reference_images] == ["a.png"]
    assert second.video is not None
    assert (second.video.media_type, second.video.num_frames) == ("video/mp4", 9)
    assert set(submission.inputs) == {ref.sha256 for spec in (first, second) for ref in spec.input_refs}
    assert submission.inputs[second.video.sha256].read() == (tmp_path / "v.mp4").read_bytes()


def test_references_in_text_are_one_or_a_json_list(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text('x --reference-images ["a.png", "b.png"]\ny --reference_images a.png\n', "utf-8")
    submission = parse(
        tmp_path / "p.txt", overrides={"preset": "wan2.1-vace-1.3b"}, settings=load_settings(home=tmp_path)
    )
    assert [len(job.spec.reference_images) for job in submission.jobs] == [2, 1]


def test_inputs_count_in_the_fingerprint_where_they_are_given(tmp_path: Path) -> None:
    base = {"preset": "wan2.2-i2v-a14b", "image": "a.png"}
    with_last = read(tmp_path, {**base, "last_image": "b.png"}).fingerprint
    assert with_last != read(tmp_path, base).fingerprint
    assert with_last != read(tmp_path, {**base, "last_image": "a.png"}).fingerprint
    # Made before there were more inputs than an image: a file that was submitted then is known again.
    assert read(tmp_path, {"preset": "tiny-wan", "seed": 1}).fingerprint == (
        "2fb35c255f1a8138c02e7082a4cc0c546a29e935dc8dae86026dd61f4bbef3a7"
    )


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        ({"preset": "svd-xt"}, "image", "is required by preset 'svd-xt'"),
        ({"preset": "svd-xt", "image": "a.png", "last_image": "b.png"}, "last_image", "StableVideoDiffusionPipeline"),
        ({"preset": "tiny-wan", "video": "v.mp4"}, "video", "is given, but preset 'tiny-wan' (WanPipeline) takes none"),
        ({"preset": "tiny-wan", "reference_images": ["a.png"]}, "reference_images", "takes none"),
        ({"preset": "wan2.1-flf2v-14b-720p", "image": "a.png"}, "last_image", "is required by preset"),
        ({"preset": "wan2.1-v2v-1.3b"}, "video", "is required by preset 'wan2.1-v2v-1.3b' (video to video)"),
        ({"preset": "wan2.1-v2v-1.3b", "num_frames": 13, "video": "v.mp4"}, "video", "has 9 frames, the clip 13"),
        ({"preset": "wan2.1-v2v-1.3b", "video": "v.mp4", "image": "a.png"}, "image", "takes a video"),
        ({"preset": "wan2.1-vace-1.3b", "video": "a.png"}, "video", "is not an MP4, QuickTime"),
        ({"preset": "wan2.1-vace-1.3b", "video": "cut.mp4"}, "video", "cut.mp4"),
        ({"preset": "wan2.1-vace-1.3b", "video": "list.mp4"}, "video", "is not an MP4, QuickTime"),
        ({"preset": "wan2.1-vace-1.3b", "video": "data:video/mp4;base64,AAAA"}, "video", "is a data URL"),
        ({"preset": "wan2.1-vace-1.3b", "reference_images": ["a.png", 3]}, "reference_images", "3 is not text"),
        ({"preset": "wan2.1-vace-1.3b", "reference_images": []}, "reference_images", "not an image or a list"),
        ({"preset": "wan2.1-vace-1.3b", "reference_images": ["a.png"] * 17}, "reference_images", "at most 16"),
    ],
)  # fmt: skip
def test_what_a_preset_does_not_take_is_refused_with_line_and_field(
    tmp_path: Path, line: dict[str, object], field: str, message: str
) -> None:
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:900])
    # A playlist is not read, whatever it is called: it could name any file or address.
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "utf-8")
    found = problems(tmp_path, {"preset": "tiny-wan"}, line)
    assert (2, field) in [(number, name) for number, name, _ in found]
    assert any(message in text for _, name, text in found if name == field)


def test_a_large_image_fits_into_a_line_as_base64(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((1600, 1200), 90).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    assert len(data) > 2_000_000
    submission = read(tmp_path, {"preset": "svd-xt", "image": f"data:image/png;base64,{data}"})
    (stored,) = submission.inputs.values()
    assert stored.size == len(buffer.getvalue())
