"""A generator without a model, for tests: it keeps the protocol, counts steps, and fills frames from the seed.

It measures and tests the line around the model. It imports no torch. ``VGEN_IDLE_STEP_S`` is the time of one step in
seconds (default 0), read at load. ``VGEN_IDLE_FRAMES`` names a file of raw frames that are handed over instead, from
its beginning and of the clip's size, so that encoding costs what it costs with a picture.
"""

import hashlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline import failpoints
from pipeline.files.digests import file_sha256
from pipeline.generators.base import (
    NO_CHECKPOINTS,
    CheckpointReceiver,
    GenerationRequest,
    GenerationResult,
    Generator,
    HandOver,
    OnProgress,
    Phase,
    Progress,
)
from pipeline.generators.denoising.checkpoint_file import CheckpointKeeper, Identity, step_of, write_state_only
from pipeline.generators.frames_file import CHANNELS, write_frames
from pipeline.presets import Preset, get_preset

STEP_SECONDS = "VGEN_IDLE_STEP_S"
FRAMES_FILE = "VGEN_IDLE_FRAMES"


class IdleGenerator(Generator):
    """The ``idle`` preset. See the module."""

    def __init__(self) -> None:
        self._step_s = 0.0
        self._revision = ""

    def load(self, preset_name: str, on_progress: OnProgress) -> None:
        self.load_preset(get_preset(preset_name), on_progress)

    def load_preset(self, preset: Preset, on_progress: OnProgress) -> None:
        self._step_s = float(os.environ.get(STEP_SECONDS, "0"))
        self._revision = f"built-in-v{preset.version}"
        on_progress(Progress(Phase.LOAD, 1, 1))

    def make(
        self, request: GenerationRequest, on_progress: OnProgress, checkpoints: CheckpointReceiver = NO_CHECKPOINTS
    ) -> HandOver:
        spec, numerics = request.spec, {"device": "none", "generator": "idle"}
        keeper = CheckpointKeeper(
            request, Identity.of(request, model={"revision": self._revision}, numerics=numerics), checkpoints
        )
        started = time.monotonic()
        checkpoint, first = keeper.check(), 1
        if checkpoint is not None:
            first, _ = step_of(checkpoint)
            keeper.resumed(first)  # like a model's: the step of the checkpoint is made once more
        on_progress(Progress(Phase.DENOISE, first - 1, spec.num_inference_steps))
        due = time.monotonic()
        for step in range(first, spec.num_inference_steps + 1):
            # A GPU computes on while a step is reported, so the report's time comes off the next step, if it is short.
            due = max(due, time.monotonic() - self._step_s) + self._step_s
            time.sleep(max(0.0, due - time.monotonic()))
            failpoints.hit("denoise_step", str(spec.seed))
            keeper.after_step(step, spec.num_inference_steps, on_progress, write_state_only)
        denoised, revision = time.monotonic(), self._revision

        def hand_over() -> GenerationResult:
            digest = write_frames(request.frames_path, spec, _frames(request), repeats=request.repeats)
            on_progress(Progress(Phase.HAND_OFF, 1, 1))
            return GenerationResult(
                num_frames=request.new_frames,
                height=spec.height,
                width=spec.width,
                frames_sha256=digest,
                numerics=numerics,
                model_revision=revision,
                timings_s={"denoise": denoised - started, "hand_off": time.monotonic() - denoised},
                facts={"random_weights": True, "no_model": True, **keeper.facts},
            )

        return hand_over

    def prepare(self, preset_name: str, prompt: str, negative_prompt: str | None) -> None:
        """It reads no prompt."""

    def host_bytes(self) -> int | None:
        """It is made anew faster than kept."""
        return None

    def move_to_host(self) -> None:
        """It is on no device."""

    def free(self) -> None:
        """It holds nothing."""

    def unload(self) -> None:
        """There is nothing to free."""


def _frames(request: GenerationRequest) -> Iterator[bytes | memoryview]:
    """Each frame is one 32-byte digest of seed and index, repeated; of a later segment also of what it goes on from."""
    spec = request.spec
    size = spec.height * spec.width * CHANNELS
    if recorded := os.environ.get(FRAMES_FILE):
        yield from _recorded(Path(recorded), size, range(request.repeats, spec.num_frames))
        return
    before = "" if request.previous is None else file_sha256(request.previous) + ":"
    for index in range(request.repeats, spec.num_frames):
        block = hashlib.sha256(f"{before}{spec.seed}:{index}".encode()).digest()
        yield (block * (size // len(block) + 1))[:size]


def _recorded(path: Path, size: int, indices: range) -> Iterator[memoryview]:
    """Views of the file's pages: a GPU leaves its frames in memory too, and reading them is no work of the line."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        view = memoryview(pages)
        try:
            for index in indices:
                with view[index * size : (index + 1) * size] as frame:
                    yield frame
        finally:
            view.release()
