"""A model in a child process, loaded once and asked many times."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from pipeline import extras
from pipeline.errors import ConflictError, InputError, Problem, StoppedError, VgenError
from pipeline.generators.base import Progress
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.models.gpus import find_gpus
from pipeline.prompts import parse
from pipeline.settings import Settings, load_settings
from pipeline.wiring import StageModels
from vgen import one_clip
from vgen.config import RunConfig, read_config
from vgen.events import ClipEvent, FinalEvent, ProgressEvent
from vgen.model import ModelFolder, named_model
from vgen.one_clip import ClipServices, Output
from vgen.request import VideoRequest, planned
from vgen.result import VideoResult

OnEvent = Callable[[ProgressEvent], None]


class _Call:
    """A clip that is made beside an event loop, and whether it has begun and whoever asked for it has left."""

    def __init__(self) -> None:
        self.begun = self.left = False


_call: ContextVar[_Call | None] = ContextVar("_call", default=None)
"""The call of the thread that makes a clip beside an event loop."""


def _silent(_: ProgressEvent) -> None:
    pass


class VideoGenerator:
    """One preset's model on this host's first GPU, or its CPU; clips are made one at a time, other threads wait.

    Use ``from_preset``, ``from_pretrained`` or ``from_config``, and end it with ``shutdown`` or ``with``.
    """

    def __init__(self, preset: str, settings: Settings, *, model: ModelFolder | None = None) -> None:
        extras.require(extras.GENERATE, purpose="what makes clips")
        self.preset = preset
        self._model = model
        # A program names its own files: what is fenced in is a prompt file, which may come from elsewhere.
        self._settings = settings if settings.input_roots else settings.model_copy(update={"input_roots": (Path("/"),)})
        gpu = find_gpus(settings.gpu_type, 1)[0]
        self._gpu_type = gpu.type
        self._process: GeneratorProcess | None = GeneratorProcess(self._settings, device_env=gpu.device_env)
        self._models = StageModels(self._settings)
        self._busy = threading.Lock()
        self._stopping = threading.Event()

    @classmethod
    def from_preset(
        cls, name: str, *, settings: Settings | Mapping[str, Any] | None = None, on_progress: OnEvent = _silent
    ) -> Self:
        """Load a preset of the catalogue or of ``VGEN_PRESETS_DIR``; its model must be on this machine.

        Raises:
            NotFoundError, InputError, SettingsError: no such preset, or its file or a setting is wrong.
            StageError: it cannot be loaded (code ``model_missing``: `vgen models pull` fetches it).
        """
        return cls(name, _settings(settings))._loaded(on_progress)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        extends: str | None = None,
        fields: Mapping[str, Any] | None = None,
        settings: Settings | Mapping[str, Any] | None = None,
        on_progress: OnEvent = _silent,
    ) -> Self:
        """Load a model folder as ``save_pretrained`` wrote it, or a hub id that is in the cache.

        Args:
            model: the folder or id.
            extends: the catalogue's preset whose rules and defaults hold for it; may be left out where only one has
                the model's pipeline class.
            fields: further fields of a preset's file, such as ``{"dtype": "float32"}``.

        Raises:
            InputError: no preset can be made of these; every mistake is named.
            StageError: as for ``from_preset``.
        """
        base = _settings(settings)
        preset_folder = named_model(model, extends, fields or {})
        try:
            return cls(
                preset_folder.name, base.model_copy(update={"presets_dir": preset_folder.folder}), model=preset_folder
            )._loaded(on_progress)
        except BaseException:
            preset_folder.close()
            raise

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | Path | RunConfig, *, on_progress: OnEvent = _silent) -> Self:
        """Load what a configuration names: a mapping, or the path of a YAML file; its request and output are not used.

        Raises:
            InputError: it has an unknown key or a wrong value, named with the nearest there are.
        """
        checked = config if isinstance(config, RunConfig) else read_config(config, needs_request=False)
        if checked.model is None:
            return cls.from_preset(
                checked.preset or checked.settings.preset, settings=checked.settings, on_progress=on_progress
            )
        return cls.from_pretrained(
            checked.model,
            extends=checked.extends,
            fields=checked.fields,
            settings=checked.settings,
            on_progress=on_progress,
        )

    def generate(
        self,
        request: VideoRequest | str,
        *,
        output: str | Path | Output | None = None,
        return_frames: bool | None = None,
        on_progress: OnEvent = _silent,
    ) -> VideoResult:
        """Make one clip.

        Args:
            request: what to make; a text is a prompt with every default.
            output: where the MP4 goes; its sidecar goes beside it. None writes nothing.
            return_frames: whether the result has the raw frames; None: where there is no output.
            on_progress: called at each step; what it raises stops the clip and is raised.

        Raises:
            InputError: the request or output breaks a rule; every mistake is named.
            StageError: the clip cannot be made; StoppedError after ``stop``.
        """
        video_request = VideoRequest(request) if isinstance(request, str) else request
        target = output if isinstance(output, Output) or output is None else Output(Path(output))
        job, submission = planned(video_request, self.preset, self._settings, Path.cwd())
        if target is not None:
            target.check()
        frames = target is None if return_frames is None else return_frames
        with self._turn():
            return one_clip.make(job, submission, self._services(on_progress), target, with_frames=frames)

    def generate_file(self, path: str | Path, folder: str | Path) -> Iterator[VideoResult]:
        """Make every clip of a prompt file, one after the other, as ``folder``/LINE-VARIANT.mp4 (what is there stays).

        For more than a few use the line, which goes on where it was: ``vgen run``.

        Raises:
            InputError: the file has mistakes, or names another preset; nothing is made then.
        """
        submission = parse(Path(path), overrides={}, settings=self._settings.model_copy(update={"preset": self.preset}))
        other_presets = sorted({job.spec.preset for job in submission.jobs} - {self.preset})
        if other_presets:
            raise InputError(
                [Problem(f"{other_presets[0]!r} is not the preset that is loaded, {self.preset!r}", str(path))]
            )
        for job in submission.jobs:
            target = Output(Path(folder) / f"{job.line:06}-{job.variant}.mp4")
            target.check()
            with self._turn():
                yield one_clip.make(job, submission, self._services(_silent), target, with_frames=False)

    async def generate_async(
        self,
        request: VideoRequest | str,
        *,
        output: str | Path | Output | None = None,
        return_frames: bool | None = None,
    ) -> AsyncIterator[ClipEvent]:
        """Make one clip beside the event loop: a ``ProgressEvent`` at each step, then one ``FinalEvent``.

        Whoever leaves the loop early, or is cancelled, stops the clip. Raises what ``generate`` does.
        """
        making = self._beside_the_loop(
            lambda report: self.generate(request, output=output, return_frames=return_frames, on_progress=report)
        )
        async with contextlib.aclosing(making):
            async for event in making:
                yield event

    async def _beside_the_loop(self, make: Callable[[OnEvent], VideoResult]) -> AsyncGenerator[ClipEvent, None]:
        """Make a clip in a thread, and tell its events. One that has not begun when its caller leaves is not made."""
        loop, call = asyncio.get_running_loop(), _Call()
        events: asyncio.Queue[ProgressEvent | None] = asyncio.Queue()

        def report(event: ProgressEvent) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def work() -> VideoResult:
            _call.set(call)
            return make(report)

        making = asyncio.ensure_future(asyncio.to_thread(work))
        making.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield FinalEvent(await making)
        finally:
            call.left = True
            if not making.done():
                if call.begun:
                    self.stop()
                with contextlib.suppress(VgenError):
                    await making

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other clip is made. Raises StoppedError: whoever asked for this one has left."""
        call = _call.get()
        with self._busy:
            self._stopping.clear()
            if call is not None:
                call.begun = True
                if call.left:
                    raise StoppedError("the clip was stopped before its turn")
            yield

    def stop(self) -> None:
        """End the running clip with StoppedError at its next step; may be called from any thread."""
        self._stopping.set()
        if self._process is not None:
            self._process.request_stop()

    def shutdown(self) -> None:
        """End the child process and free the GPU; a running clip is stopped. May be called again."""
        self.stop()
        with self._busy:
            if self._process is not None:
                self._process.close()
                self._process = None
            self._models.close()
            if self._model is not None:
                self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _loaded(self, on_progress: OnEvent) -> Self:
        assert self._process is not None
        try:
            self._process.load(self.preset, lambda progress: on_progress(_event(progress)))
        except BaseException:
            self.shutdown()
            raise
        return self

    def _services(self, on_progress: OnEvent) -> ClipServices:
        if self._process is None:
            raise ConflictError("the generator was shut down")

        def check() -> None:
            if self._stopping.is_set():
                raise StoppedError("asked to stop")

        def report(progress: Progress) -> None:
            check()
            on_progress(_event(progress))

        return ClipServices(self._settings, self._models, self._process, self._gpu_type, report, check)


def _event(progress: Progress) -> ProgressEvent:
    return ProgressEvent(progress.phase.value, progress.step, progress.total)


def _settings(settings: Settings | Mapping[str, Any] | None) -> Settings:
    return settings if isinstance(settings, Settings) else load_settings(**(settings or {}))
