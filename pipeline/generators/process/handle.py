"""The parent's handle on a generator's child process. Imports no torch."""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.acceleration import PLAIN, Acceleration
from pipeline.errors import CrashError, StoppedError
from pipeline.generators.base import (
    NO_CHECKPOINTS,
    CheckpointReceiver,
    GenerationRequest,
    GenerationResult,
    OnMade,
    OnProgress,
    Progress,
)
from pipeline.generators.process import wire
from pipeline.generators.process.running_child import EXIT_S, RunningChild
from pipeline.presets import Library, Preset, load_library
from pipeline.settings import Settings

_POLL_S = 0.2
"""The delay until ``request_stop`` is passed on while the child is silent."""
_Files = tuple[tuple[str, int, int], ...]
"""Path, bytes and time of the last change (ns) of each file of a model's folder."""


@dataclass(frozen=True, slots=True)
class Load:
    """The way a preset came into the child."""

    preset: str
    source: str
    """``disk``, or ``host``: it had waited in the host's memory."""
    seconds: float


class GeneratorProcess:
    """A child that loads a preset when a job needs it and makes clips, one at a time.

    It may be used by one thread at a time, and by the next once ``on_made`` was called; ``request_stop``, ``pid`` and
    ``rss`` may be used by any. A child that died or was killed is replaced at the next call.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        device_env: Mapping[str, str] | None = None,
        on_recycled: Callable[[str, str], None] | None = None,
    ) -> None:
        """``on_recycled`` is called with the preset and the reason when a child that grew too large was ended."""
        self._settings = settings
        self._on_recycled = on_recycled
        self._device_env = dict(device_env or {})
        self._numbers = itertools.count(1)
        self._child: RunningChild | None = None
        self._changing = threading.Lock()
        self._loaded: Preset | None = None
        self._loaded_how = PLAIN
        self._loaded_files: _Files = ()
        self.last_load: Load | None = None
        self._stop = threading.Event()

    @property
    def loaded_preset(self) -> str | None:
        """Name of the preset in memory; None when there is none."""
        return self._loaded.name if self._loaded and self._child and self._child.alive else None

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        child = self._child
        return child.pid if child is not None and child.alive else None

    @property
    def rss(self) -> int | None:
        """Bytes of memory resident in the child; None when there is none, or no /proc."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return None

    def start(self) -> None:
        """Start the child, unless it runs."""
        if self._child is None or not self._child.alive:
            self._drop_child(self._child)
            kernels = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(self._settings.kernels_dir))
            env = {"TORCHINDUCTOR_CACHE_DIR": kernels, **self._device_env}
            self._child = RunningChild(self._settings.effective_cache_dir, env)

    def load(self, preset_name: str, on_progress: OnProgress) -> None:
        """Bring the preset into memory and warm it up; nothing to do when it is there.

        Raises:
            NotFoundError, InputError: no such preset, or its file is wrong.
            CrashError: the child died, or was silent for ``load_deadline_s`` (code ``generator_hung``).
            StageError: what the generator raised; StoppedError also when ``on_progress`` does.
        """
        self._stop.clear()
        preset = self._library().get(preset_name)
        self._ensure_loaded(preset, preset.acceleration.at_load, on_progress)

    def generate(
        self,
        request: GenerationRequest,
        on_progress: OnProgress,
        checkpoints: CheckpointReceiver = NO_CHECKPOINTS,
        on_made: OnMade | None = None,
    ) -> GenerationResult:
        """Make a clip, loading its preset first when another or none is loaded.

        ``on_made`` is called when another thread may make the next clip, while this one's frames are handed over;
        never, when the child is not to make another.

        When ``on_progress`` raises, the child is stopped at its next sign of life and the error goes on to the caller,
        after ``checkpoints`` received the one that the child left, where the error is a StoppedError with ``keep``.
        Then a clip that had been decoded already is finished all the same.

        Raises:
            CrashError: the child died, or was silent for ``step_deadline_s`` (code ``generator_hung``).
            RefusedError: code ``preset_missing`` or ``preset_differs``: it is not the job's preset that is here.
            StageError: what the generator raised.
        """
        self._stop.clear()
        preset = self._library().pinned(request.spec.preset, request.spec.preset_digest)
        self._ensure_loaded(preset, request.accelerated_by.at_load, on_progress)
        data = {"request": wire.request_to_wire(request)}
        deadline_s = self._settings.worker.step_deadline_s
        answer = self._ask("generate", data, on_progress, deadline_s, checkpoints, on_made)
        if answer.get("has_outgrown") is not None:
            self._recycle(preset.name, answer["has_outgrown"])
        return wire.result_from_wire(answer["data"])

    def _recycle(self, preset: str, reason: str) -> None:
        """End a child between two clips; the next call, or the model loader, starts and warms up another."""
        self._drop_child(self._child, at_once=True)
        if self._on_recycled is not None:
            self._on_recycled(preset, reason)

    def calibrate(self, request: GenerationRequest, on_progress: OnProgress) -> list[float]:
        """MagCache's ratios of the request's preset, one a step, measured over the clip of the request.

        Raises:
            RefusedError: code ``acceleration_unsupported``, and as ``generate``.
        """
        self._stop.clear()
        preset = self._library().pinned(request.spec.preset, request.spec.preset_digest)
        self._ensure_loaded(preset, PLAIN, on_progress)
        data = {"request": wire.request_to_wire(request)}
        answer = self._ask("calibrate", data, on_progress, self._settings.worker.step_deadline_s)
        return [float(ratio) for ratio in answer["data"]["ratios"]]

    def prepare(self, preset: str, prompt: str, negative_prompt: str | None) -> None:
        """Have the idle child encode the prompt of a clip that may come; may be called from any thread."""
        child = self._child
        if child is not None and child.alive:
            data = {"preset": preset, "prompt": prompt, "negative_prompt": negative_prompt}
            child.send({"id": next(self._numbers), "command": "prepare", **data})

    def request_stop(self) -> None:
        """End the running call with StoppedError at the child's next sign of life; may be called from any thread."""
        self._stop.set()

    def close(self) -> None:
        """End the child; the handle can be used again."""
        self._drop_child(self._child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _library(self) -> Library:
        return load_library(self._settings.effective_presets_dir)

    def _ensure_loaded(self, preset: Preset, how: Acceleration, on_progress: OnProgress) -> None:
        self.start()
        files = _files_of(preset)
        if (self._loaded, self._loaded_how, self._loaded_files) == (preset, how, files):
            return
        self._loaded = None
        data = {
            "preset": preset.model_dump(mode="json"),
            "acceleration": how.model_dump(mode="json"),
            "lora_bytes": self._settings.worker.lora_bytes,
            "growth_bytes": self._settings.worker.growth_bytes,
            "host_cache_bytes": self._settings.worker.host_cache_bytes,
            "files": files,
        }
        begun = time.monotonic()
        answer = self._ask("load", data, on_progress, self._settings.worker.load_deadline_s)
        self.last_load = Load(preset.name, answer["data"]["source"], time.monotonic() - begun)
        self._loaded, self._loaded_how, self._loaded_files = preset, how, files

    def _ask(
        self,
        command: str,
        data: dict[str, Any],
        on_progress: OnProgress,
        deadline_s: float,
        checkpoints: CheckpointReceiver = NO_CHECKPOINTS,
        on_made: OnMade | None = None,
    ) -> dict[str, Any]:
        """Send one command and follow it to its end, the event returned; ``deadline_s`` is the longest silence."""
        child = self._child
        if child is None:
            raise CrashError("the generator's process is not running")
        number = next(self._numbers)
        stopping: BaseException | None = None
        was_made = False
        heard = time.monotonic()
        with child.answers(number) as next_event:
            child.send({"id": number, "command": command, **data})
            while True:
                if (
                    self._stop.is_set() and stopping is None and not was_made
                ):  # then it is the next clip that is to stop
                    stopping = StoppedError("asked to stop")
                    child.send({"id": number, "command": "stop", "keep": False})
                event = next_event(_POLL_S)
                if event is None:
                    if time.monotonic() - heard > deadline_s:
                        self._hung(child, command, deadline_s, stopping)
                    continue
                heard = time.monotonic()
                match event["event"]:
                    case "died":
                        self._drop_child(child)
                        raise stopping or CrashError(f"the generator died during {command}: {child.describe_end()}")
                    case "progress":
                        progress = wire.progress_from_wire(event["data"])
                        stopping = stopping or self._reported(child, number, progress, on_progress)
                    case "checkpoint" | "unusable" | "made":
                        was_made = was_made or event["event"] == "made"
                        _report(event, checkpoints, on_made)
                    case "error":
                        raise stopping or wire.error_from_wire(event["data"])
                    case _:
                        # A clip finished before the stop reached it is still stopped: the caller was promised that.
                        if stopping is not None and not getattr(stopping, "keep", False):
                            raise stopping
                        return event

    def _reported(
        self, child: RunningChild, number: int, progress: Progress, on_progress: OnProgress
    ) -> BaseException | None:
        """Pass one sign of life on; what the callback raised, once the child was asked to stop."""
        try:
            on_progress(progress)
        except BaseException as error:  # noqa: BLE001 - raised again as soon as the child has stopped
            child.send({"id": number, "command": "stop", "keep": getattr(error, "keep", False)})
            return error
        return None

    def _hung(self, child: RunningChild, command: str, deadline_s: float, stopping: BaseException | None) -> None:
        self._drop_child(child, at_once=True)
        if stopping is not None:
            raise stopping
        raise CrashError(
            f"the generator gave no sign of life for {deadline_s:g} s during {command} and was killed: "
            f"{child.describe_end()}",
            code="generator_hung",
        )

    def _drop_child(self, child: RunningChild | None, *, at_once: bool = False) -> None:
        """End the child. Two clips may both find that it died: the second must not end its successor."""
        with self._changing:
            if child is not None and child is self._child:
                self._child, self._loaded = None, None
        if child is not None:
            child.end(0.0 if at_once else EXIT_S)


def _report(event: dict[str, Any], checkpoints: CheckpointReceiver, on_made: OnMade | None) -> None:
    if event["event"] == "checkpoint":
        checkpoints.saved(wire.checkpoint_from_wire(event["data"]))
    elif event["event"] == "unusable":
        checkpoints.unusable(str(event["data"]["reason"]))
    elif on_made is not None:
        on_made()


def _files_of(preset: Preset) -> _Files:
    """Return the files' state, which shows that a model in a user's folder was replaced; a hub's never is."""
    folder = Path(preset.repo)
    if not folder.is_absolute():
        return ()
    files = []
    with contextlib.suppress(OSError):  # whether it can be loaded is the child's question
        for path in sorted(folder.resolve().glob("*/*")):
            stat = path.stat()
            files.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(files)
