"""The Python interface with a real child process; the preset `idle` where the picture does not matter."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

import vgen
from pipeline.errors import ConflictError, InputError, NotFoundError, RefusedError, StoppedError
from pipeline.settings import load_settings
from pipeline.spec import JobSpec
from tests.conftest import REPOSITORY
from tests.loras import write_lora
from tests.unit.pipeline.safety.fasttext_file import write_safety_classifier
from vgen import FinalEvent, Lora, ProgressEvent, VideoGenerator, VideoRequest
from vgen.request import planned

SMALL = {"num_frames": 5, "width": 64, "height": 48, "fps": 8}
FOX = VideoRequest("a fox", seed=7, num_inference_steps=3, **SMALL)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def idle() -> Iterator[VideoGenerator]:
    with VideoGenerator.from_preset("idle") as generator:
        yield generator


def test_a_clip_and_its_sidecar_are_written_and_nothing_else(idle: VideoGenerator, tmp_path: Path) -> None:
    result = idle.generate(FOX, output="fox.mp4", return_frames=True)

    assert result.video_path == Path("fox.mp4")
    assert {path.name for path in tmp_path.iterdir()} - {"home", "user-home"} == {"fox.mp4", "fox.json"}
    sidecar = json.loads(Path("fox.json").read_text("utf-8"))
    assert sidecar == result.sidecar
    assert sidecar["files"]["video"]["sha256"] == hashlib.sha256(Path("fox.mp4").read_bytes()).hexdigest()
    assert result.frames is not None
    assert result.frames.shape == (5, 48, 64, 3)
    assert hashlib.sha256(result.frames.tobytes()).hexdigest() == result.frames_sha256 == sidecar["frames"]["sha256"]
    with av.open("fox.mp4") as video:
        assert sum(1 for _ in video.decode(video=0)) == 5


def test_without_an_output_there_are_frames_and_no_file(idle: VideoGenerator, tmp_path: Path) -> None:
    result = idle.generate(FOX)
    assert result.frames is not None
    assert (result.video_path, result.sidecar) == (None, None)
    assert list(tmp_path.glob("*.mp4")) == []


def test_the_same_request_gives_the_same_file_and_a_seed_of_its_own(idle: VideoGenerator) -> None:
    first = idle.generate("a boat", output="a.mp4")
    second = idle.generate("a boat", output="b.mp4")
    assert first.seed == second.seed
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert idle.generate("a ship").seed != first.seed


def test_a_file_that_is_there_stays_unless_asked(idle: VideoGenerator) -> None:
    Path("fox.mp4").write_text("mine")
    with pytest.raises(InputError, match=r"^output: 'fox\.mp4' exists; pass overwrite=True"):
        idle.generate(FOX, output="fox.mp4")
    assert Path("fox.mp4").read_text() == "mine"
    idle.generate(FOX, output="fox.mp4", overwrite=True)
    assert Path("fox.mp4").stat().st_size > 100
    for bad in ("fox.avi", "no/such/fox.mp4"):
        with pytest.raises(InputError, match=r"^output: "):
            idle.generate(FOX, output=bad)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (VideoRequest("a", num_frames=-1), "num_frames: -1"),
        (VideoRequest("a", image="a.png"), "image: 'a.png' does not exist"),
        (VideoRequest("a", loras=[Lora("no.safetensors")]), "loras: 'no.safetensors' does not exist"),
        (VideoRequest("a", loras=[Lora("a", repo="b/c")]), "loras: give 'path' or 'repo', one of them"),
        (VideoRequest("a", loras=3), "loras: 3 is not a list of LoRAs"),  # type: ignore[arg-type]
        (VideoRequest("a", other={"promt": "b"}), "promt: unknown field; did you mean 'prompt'"),
        (VideoRequest("a", other={"seeds": "1-3"}), "asks for 3 clips; a request is for one"),
        (VideoRequest("a", other={"preset": "tiny-wan"}), "is not the preset that is loaded, 'idle'"),
        (VideoRequest("a", other={"x": object()}), "cannot be written as JSON"),
        (VideoRequest(" "), "prompt: is empty"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(idle: VideoGenerator, request_: VideoRequest, message: str) -> None:
    with pytest.raises(InputError) as caught:
        idle.generate(request_)
    assert message in str(caught.value)


def test_loras_are_asked_for_as_in_a_prompt_file(tmp_path: Path) -> None:
    write_lora(tmp_path / "style.safetensors")
    asked = (Lora(Path("style.safetensors"), scale=0.8), "style.safetensors@0.8", {"path": "style.safetensors"})

    def spec(**fields: Any) -> JobSpec:
        return planned(VideoRequest("a", **fields), "tiny-wan", load_settings(), tmp_path)[0].spec

    typed, text, mapping = (spec(loras=[one]) for one in asked)
    assert typed == text == spec(other={"lora": "style.safetensors@0.8"})
    assert [(lora.file.name, lora.scale) for lora in (*typed.loras, *mapping.loras)] == [
        ("style.safetensors", 0.8),
        ("style.safetensors", 1.0),
    ]


def test_an_asynchronous_generation_yields_each_step_and_then_the_clip(idle: VideoGenerator) -> None:
    async def collect() -> list[vgen.ClipEvent]:
        return [event async for event in idle.generate_async(FOX)]

    *progress, last = asyncio.run(collect())

    steps = [event.step for event in progress if isinstance(event, ProgressEvent) and event.phase == "denoise"]
    assert steps == [0, 1, 2, 3]
    assert isinstance(last, FinalEvent)
    assert last.result.frames_sha256 == idle.generate(FOX).frames_sha256


def test_leaving_an_asynchronous_generation_stops_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.05")
    long = VideoRequest("a", num_inference_steps=1000, **SMALL)  # type: ignore[arg-type]

    async def leave(generator: VideoGenerator) -> None:
        events = generator.generate_async(long)
        async for event in events:
            if isinstance(event, ProgressEvent) and event.step >= 2:
                break
        await events.aclose()  # type: ignore[attr-defined]

    async def be_cancelled(generator: VideoGenerator) -> None:
        async def use() -> None:
            async for _ in generator.generate_async(long):
                started.set()

        started = asyncio.Event()
        task = asyncio.create_task(use())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with VideoGenerator.from_preset("idle") as generator:
        asyncio.run(leave(generator))
        asyncio.run(be_cancelled(generator))
        assert generator.generate(FOX).num_frames == 5


def test_an_error_of_the_callback_stops_the_clip_and_is_raised(idle: VideoGenerator) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.step == 2:
            raise StoppedError("enough")

    with pytest.raises(StoppedError, match="enough"):
        idle.generate(FOX, on_progress=stop)
    assert idle.generate(FOX).num_frames == 5


def test_after_shutdown_nothing_is_made_and_the_child_is_gone(idle: VideoGenerator) -> None:
    process = idle._process
    assert process is not None
    assert process.pid is not None
    idle.shutdown()
    idle.shutdown()
    assert process.pid is None
    with pytest.raises(ConflictError, match="was shut down"):
        idle.generate(FOX)


def test_what_the_classifier_blocks_is_not_made(tmp_path: Path) -> None:
    settings = {"safety": {"classifier": write_safety_classifier(tmp_path / "safety.bin")}}
    with VideoGenerator.from_preset("idle", settings=settings) as generator:
        with pytest.raises(RefusedError) as caught:
            generator.generate("gore", output="gore.mp4")
        assert caught.value.code == "prompt_unsafe"
        assert not Path("gore.mp4").exists()
        assert generator.generate("kitten", output="kitten.mp4").sidecar["safety"]["decision"] == "allow"  # type: ignore[index]


def test_a_prompt_file_in_turn(idle: VideoGenerator, tmp_path: Path) -> None:
    Path("p.txt").write_text("a fox\na boat --seeds 1-2\n", "utf-8")
    made = list(idle.generate_file("p.txt", tmp_path))
    assert [result.prompt for result in made] == ["a fox", "a boat", "a boat"]
    assert {path.name for path in tmp_path.glob("0*.mp4")} == {"000001-0.mp4", "000002-0.mp4", "000002-1.mp4"}
    Path("q.txt").write_text("a --preset tiny-wan\n", "utf-8")
    with pytest.raises(InputError, match="'tiny-wan' is not the preset that is loaded"):
        next(idle.generate_file("q.txt", tmp_path))


def test_unknown_presets_and_models_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'tiny-wan'"):
        VideoGenerator.from_preset("tiny-wam")
    with pytest.raises(InputError, match="has no model_index"):
        VideoGenerator.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}', "utf-8")
    with pytest.raises(InputError, match=r"extends: is needed, since the model's class is WanPipeline.*tiny-wan"):
        VideoGenerator.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="extends: 'wan-9' is not a preset"):
        VideoGenerator.from_pretrained(tmp_path, extends="wan-9")


def test_inputs_are_taken_from_anywhere(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    (tmp_path / "home" / "presets").mkdir(parents=True)
    (tmp_path / "home" / "presets" / "still.toml").write_text('extends = "idle"\nworkload = "i2v"\n', "utf-8")
    with VideoGenerator.from_preset("still") as generator:
        result = generator.generate(VideoRequest("a", image=elsewhere), output="a.mp4")
    assert result.sidecar is not None
    assert result.sidecar["request"]["image"]["name"] == "a.png"


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_the_examples_of_the_manual_run(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/python-api.md").read_text("utf-8"), re.DOTALL)
    # The others with a preset that loads no torch: the model is the second one's matter.
    text = blocks[number] if number == 1 else blocks[number].replace("shapes-wan", "idle")
    text += ["", "", "", "print('made', frames.shape, video)"][number]
    exec(compile(text, "python-api.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert ("2 of 2", "(17, 64, 128, 3)", "made ball.mp4", "made (4, 32, 32, 3) ")[number] in said
    assert len(blocks) == 4
