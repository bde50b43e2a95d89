from __future__ import annotations

import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import RefusedError, RetryableError, StoppedError
from pipeline.files.object_names import MEDIA_TYPES
from pipeline.outputs import EncodeOutput
from pipeline.presets import get_preset
from pipeline.spec import JobSpec
from pipeline.stages import encode
from tests.unit.pipeline.encoding.clips import decode_rgb
from tests.unit.pipeline.stages.encoded import JOB_ID, PROMPT, Bench, make_bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def fetch(bench: Bench, key: str, to: Path) -> Path:
    bench.context.storage.download(key, to)
    return to


def test_four_files_lie_in_the_store_under_their_digests(bench: Bench) -> None:
    output = encode.run(bench.work(), bench.context).output

    assert bench.stored() == sorted(output.file(kind).key for kind in MEDIA_TYPES)
    for kind, suffix in (("video", "mp4"), ("poster", "poster.jpg"), ("strip", "strip.jpg"), ("sidecar", "json")):
        ref = output.file(kind)
        data = bench.context.storage.read_bytes(ref.key)
        assert ref.sha256 == hashlib.sha256(data).hexdigest()
        assert ref.size == len(data) > 0
        assert ref.key == f"media/{JOB_ID}/{ref.sha256}.{suffix}"
    assert EncodeOutput.from_row(json.loads(json.dumps(output.as_json()))) == output
    assert output.probe["num_frames"] == 5


def test_a_lossless_clip_is_the_raw_frames(bench: Bench, tmp_path: Path) -> None:
    result = encode.run(bench.work(codec="libx264rgb", quality=0), bench.context)
    video = fetch(bench, result.output.file("video").key, tmp_path / "v.mp4")
    assert np.array_equal(decode_rgb(video), bench.frames)


def test_the_sidecar_holds_all_that_makes_the_clip_again(bench: Bench) -> None:
    work = bench.work()
    output = encode.run(work, bench.context).output
    sidecar = json.loads(bench.context.storage.read_bytes(output.file("sidecar").key))
    generate = bench.outputs.generated

    assert sidecar["schema"] == "vgen.sidecar/1"
    assert JobSpec.model_validate(sidecar["request"]) == work.spec
    assert sidecar["seed"] == 2**63 - 1
    assert sidecar["prompt_used"] == PROMPT
    assert sidecar["enhance"] == {"prompt": PROMPT, "original": "a fox"}
    assert sidecar["safety"] == {"screened": True, "reason": "safe", "label": "safe"}
    preset = get_preset("tiny-wan")
    assert sidecar["preset"] == {"name": "tiny-wan", "version": 1, "digest": preset.digest, "values": None}
    assert sidecar["model"]["revision"] == generate.model_revision
    assert sidecar["model"]["notice"] == "weights are random"
    assert sidecar["frames"]["sha256"] == generate.frames_sha256
    assert sidecar["files"]["video"] == output.file("video").model_dump(include={"sha256", "size"})
    assert (sidecar["numerics"], sidecar["timings_s"]) == (generate.numerics, generate.timings_s)
    assert sidecar["encode"] == work.options.encode.model_dump()
    assert sidecar["software"]["torch"]
    assert sidecar["software"]["ffmpeg"].startswith("ffmpeg version")


def test_docs_name_every_field_of_the_sidecar(bench: Bench) -> None:
    output = encode.run(bench.work(), bench.context).output
    sidecar = json.loads(bench.context.storage.read_bytes(output.file("sidecar").key))
    page = (Path(__file__).parents[4] / "docs" / "sidecar.md").read_text("utf-8")
    inner = [f"{name}.{field}" for name in ("model", "frames", "video") for field in sidecar[name]]
    assert [name for name in [*sidecar, *inner] if f"`{name}`" not in page] == []


def test_the_video_says_what_it_is_and_nothing_of_the_attempt(bench: Bench, tmp_path: Path) -> None:
    first = encode.run(bench.work(attempt=1), bench.context).output
    second = encode.run(bench.work(attempt=2), bench.context).output

    assert first.video == second.video
    with av.open(str(fetch(bench, first.file("video").key, tmp_path / "v.mp4"))) as container:
        assert container.metadata["title"] == PROMPT
        comment = json.loads(container.metadata["comment"])
        assert not {"creation_time", "encoder"} & set(container.metadata)
    assert comment == {"job": JOB_ID, "seed": 2**63 - 1, "preset": "tiny-wan@1", "notice": "weights are random"}


def test_the_hand_off_is_freed_only_once_the_result_is_recorded(bench: Bench) -> None:
    result = encode.run(bench.work(), bench.context)
    assert bench.frames_path.exists()
    assert result.after_commit is not None
    result.after_commit()
    assert bench.left_in_handoff() == []


def test_frames_that_are_gone_are_lost(bench: Bench) -> None:
    bench.frames_path.unlink()
    with pytest.raises(RetryableError) as caught:
        encode.run(bench.work(), bench.context)
    assert caught.value.code == "handoff_lost"


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "longer"])
def test_frames_that_changed_are_never_encoded(damage: str, bench: Bench) -> None:
    data = bytearray(bench.frames_path.read_bytes())
    if damage == "flipped bit":
        data[1000] ^= 1
    changed = {"cut": data[:-1], "longer": data + b"\0"}.get(damage, data)
    bench.frames_path.write_bytes(changed)

    with pytest.raises(RetryableError) as caught:
        encode.run(bench.work(), bench.context)
    assert caught.value.code == "frames_corrupt"
    assert bench.stored() == []


@pytest.mark.parametrize("calls", [1, 2, 3, 6])
def test_stopping_keeps_the_frames_and_leaves_nothing_else(calls: int, tmp_path: Path) -> None:
    seen = 0

    def check() -> None:
        nonlocal seen
        seen += 1
        if seen == calls:
            raise StoppedError("cancelled")

    bench = make_bench(tmp_path, check)
    with pytest.raises(StoppedError):
        encode.run(bench.work(), bench.context)
    assert bench.left_in_handoff() == [bench.frames_path.name]

    encode.run(bench.work(attempt=2), bench.context)
    assert len(bench.stored()) >= 4


def test_wrong_options_are_refused_and_the_frames_stay(bench: Bench) -> None:
    with pytest.raises(RefusedError) as caught:
        encode.run(bench.work(codec="gif"), bench.context)
    assert caught.value.code == "encoder_missing"
    assert bench.left_in_handoff() == [bench.frames_path.name]


def test_another_attempt_does_not_touch_this_one_s_files(bench: Bench) -> None:
    stale = bench.frames_path.with_name(f"{bench.frames_path.stem}.e1.mp4")
    stale.write_bytes(b"still written by an attempt that lost its lease")
    encode.run(bench.work(attempt=2), bench.context)
    assert stale.read_bytes().startswith(b"still written")
