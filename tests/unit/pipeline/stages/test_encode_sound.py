"""Encoding a clip that has sound; without any, nothing of it is in the file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.digests import joined_digest
from pipeline.encoding import ffmpeg
from pipeline.encoding.sound import decode
from pipeline.errors import RefusedError, RetryableError
from pipeline.outputs import SoundOutput
from pipeline.spec import Beginning, EncodeOptions, InputRef
from pipeline.stages import encode
from tests.unit.pipeline.encoding.test_join import pictures
from tests.unit.pipeline.stages.encoded import FRAMES, HEIGHT, WIDTH, Bench, make_bench

RATE = 24_000
SECONDS = FRAMES / 8


def give_sound(bench: Bench, hertz: float = 440.0, seconds: float = SECONDS) -> np.ndarray[Any, Any]:
    times = np.arange(round(seconds * RATE)) / RATE
    wave = np.stack([np.sin(2 * np.pi * hertz * times), np.sin(4 * np.pi * hertz * times)], axis=1) * 0.5
    data = wave.astype("<f4").tobytes()
    path = bench.frames_path.with_suffix(".sound")
    path.write_bytes(data)
    sound = SoundOutput(sample_rate=RATE, channels=2, num_samples=len(times), sha256=hashlib.sha256(data).hexdigest())
    generate = bench.outputs.generated.model_copy(update={"sound": sound})
    bench.outputs = replace(bench.outputs, generate=generate)
    return wave


def loudest(samples: np.ndarray[Any, Any]) -> float:
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.fft.rfftfreq(len(samples), 1 / RATE)[spectrum.argmax()])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def test_the_track_sounds_like_the_raw_sound_and_is_as_long(bench: Bench, tmp_path: Path) -> None:
    give_sound(bench)
    result = encode.run(bench.work(), bench.context)

    bench.context.storage.download(result.output.file("video").key, tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as video:
        heard = np.concatenate([frame.to_ndarray() for frame in video.decode(audio=0)], axis=1)
    assert abs(heard.shape[1] / RATE - SECONDS) <= 2 * 1024 / RATE
    assert [round(loudest(channel), -1) for channel in heard] == [440.0, 880.0]
    sidecar = json.loads(bench.context.storage.read_bytes(result.output.file("sidecar").key))
    assert sidecar["sound"] == bench.outputs.generated.as_json()["sound"]
    assert sidecar["video"]["sound"]["channels"] == 2
    assert result.after_commit is not None
    result.after_commit()
    assert bench.left_in_handoff() == []


def test_two_encodes_with_sound_are_equal_to_the_byte(bench: Bench) -> None:
    give_sound(bench)
    digests = {encode.run(bench.work(attempt=n), bench.context).output.file("video").sha256 for n in (1, 2)}
    assert len(digests) == 1


def test_without_sound_the_file_has_no_track_and_the_sidecar_no_word_of_it(bench: Bench, tmp_path: Path) -> None:
    output = encode.run(bench.work(), bench.context).output
    bench.context.storage.download(output.file("video").key, tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as video:
        assert [stream.type for stream in video.streams] == ["video"]
    sidecar = json.loads(bench.context.storage.read_bytes(output.file("sidecar").key))
    assert "sound" not in sidecar
    assert "sound" not in sidecar["video"]
    command = ffmpeg.command_line(tmp_path / "x", width=64, height=48, fps=8, options=EncodeOptions(), metadata={})
    assert command[command.index("pipe:0") + 1] == "-an"
    assert "aac" not in command


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda path: path.unlink(), "handoff_lost"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "frames_corrupt"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "frames_corrupt"),
    ],
)
def test_sound_that_is_gone_or_changed_is_noticed(bench: Bench, spoil: Any, code: str) -> None:
    give_sound(bench)
    spoil(bench.frames_path.with_suffix(".sound"))
    with pytest.raises(RetryableError) as caught:
        encode.run(bench.work(), bench.context)
    assert caught.value.code == code


def test_sound_of_another_length_than_the_clip_is_not_published(bench: Bench) -> None:
    give_sound(bench, seconds=SECONDS / 2)
    with pytest.raises(RetryableError, match=r"s of sound in place of 0\.625 s") as caught:
        encode.run(bench.work(), bench.context)
    assert caught.value.code == "encode_mismatch"
    assert bench.stored() == []


def test_a_clip_that_begins_with_another_has_its_sound_and_pictures_before_its_own(tmp_path: Path) -> None:
    # Given a finished clip, and a segment that repeats two of its frames and sounds them too
    old = make_bench(tmp_path / "old")
    give_sound(old, 440.0)
    made = encode.run(old.work(), old.context).output
    video = old.context.storage.read_bytes(made.file("video").key)
    ref = InputRef(sha256=made.file("video").sha256, media_type="video/mp4", name="old.mp4", num_frames=FRAMES)
    old.context.storage.put_bytes(ref.key, video, content_type="video/mp4")
    new = make_bench(tmp_path / "new", storage=old.context.storage)
    give_sound(new, 1000.0, seconds=(FRAMES + 2) / 8)
    digest = "a" * 64
    extends = {"extends": "old", "seam_frames": 2, "num_frames": FRAMES + 2}
    work = new.work()
    spec = work.spec.model_copy(update={**extends, "begins_with": Beginning(video=ref, frames_sha256=(digest,))})

    # When it is encoded: as the whole, and as what is new
    results = {
        whole: encode.run(replace(work, attempt=number, spec=one), new.context).output
        for number, (whole, one) in enumerate(((True, spec), (False, spec.model_copy(update={"begins_with": None}))), 1)
    }

    sidecar = json.loads(new.context.storage.read_bytes(results[True].file("sidecar").key))
    own = new.outputs.generated.frames_sha256
    assert sidecar["frames"] == {
        "num_frames": 2 * FRAMES,
        "height": HEIGHT,
        "width": WIDTH,
        "sha256": joined_digest([digest, own]),
    }
    for whole, frames in ((True, 2 * FRAMES), (False, FRAMES)):
        path, raw = tmp_path / "v.mp4", tmp_path / "heard"
        path.write_bytes(new.context.storage.read_bytes(results[whole].file("video").key))
        assert results[whole].probe["num_frames"] == frames
        decode(path, raw, fps=8, num_frames=frames, check=lambda: None)
        heard = np.fromfile(raw, "<f4").reshape(-1, 2)[:, 0]
        assert len(heard) == frames * RATE // 8
        assert round(loudest(heard[-4 * RATE // 8 :]), -1) == 1000.0
        if whole:
            assert round(loudest(heard[: 3 * RATE // 8]), -1) == 440.0
    (tmp_path / "old.mp4").write_bytes(video)
    (tmp_path / "whole.mp4").write_bytes(new.context.storage.read_bytes(results[True].file("video").key))
    assert pictures(tmp_path / "whole.mp4")[:FRAMES] == pictures(tmp_path / "old.mp4")
    left = new.left_in_handoff()
    assert not [name for name in left if "part" in name]


def test_a_clip_that_cannot_be_joined_to_its_beginning_says_what_to_do(tmp_path: Path) -> None:
    old, new = make_bench(tmp_path / "old"), make_bench(tmp_path / "new")
    made = encode.run(old.work(codec="libx265"), old.context).output.file("video")
    ref = InputRef(sha256=made.sha256, media_type="video/mp4", name="old.mp4", num_frames=FRAMES)
    work = new.work()
    begins = Beginning(video=ref, frames_sha256=("a" * 64,))
    work = replace(work, spec=work.spec.model_copy(update={"extends": "old", "begins_with": begins}))

    with pytest.raises(RefusedError, match="not in the store") as lost:
        encode.run(work, new.context)
    new.context.storage.put_bytes(ref.key, old.context.storage.read_bytes(made.key), content_type="video/mp4")
    with pytest.raises(RefusedError, match="extend --part") as unfit:
        encode.run(work, new.context)

    assert (lost.value.code, unfit.value.code) == ("beginning_lost", "beginning_unfit")
    assert new.stored() == []
