"""One video, made segment by segment: each goes on where the one before ended."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.digests import joined_digest
from pipeline.encoding import ffmpeg
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.files.drafts import draft_of
from pipeline.presets import load_library
from pipeline.spec import EncodeOptions
from pipeline.work import ContinuationRef
from vgen import one_clip
from vgen.events import ClipEvent, FinalEvent, ProgressEvent
from vgen.generator import OnEvent, VideoGenerator, _silent
from vgen.request import VideoRequest, planned
from vgen.result import VideoResult


@dataclass(frozen=True, slots=True)
class StreamedVideo:
    """A video whose segments are made."""

    prompts: tuple[str, ...]
    """The prompt of each segment, as it was used."""
    num_frames: int
    fps: float
    frames_sha256: str
    """The sha256 of all frames in their order."""
    segments_sha256: str
    """The identity that the line gives to a clip of these segments, of their frames' digests."""
    video_path: Path | None
    """The MP4; None where no output was asked for."""


class _Video:
    """What is kept of a video between two steps."""

    def __init__(self, output: Path | None) -> None:
        self.output = output
        self.folder = tempfile.TemporaryDirectory(prefix="vgen-stream-")
        self.frames: IO[bytes] = (Path(self.folder.name) / "frames.rgb").open("wb")
        self.digest = hashlib.sha256()
        self.state: ContinuationRef | None = None
        self.results: list[VideoResult] = []

    def add(self, result: VideoResult, state: ContinuationRef | None) -> None:
        assert result.frames is not None
        data = result.frames.tobytes()
        self.digest.update(data)
        self.frames.write(data)
        self.results.append(result)
        self.state = state

    def close(self) -> None:
        self.frames.close()
        self.folder.cleanup()


class StreamingVideoGenerator(VideoGenerator):
    """A ``VideoGenerator`` whose steps make one video.

        with StreamingVideoGenerator.from_preset("shapes-wan") as generator:
            generator.reset(output="walk.mp4")
            for prompt in ("a fox", "it runs", "it sleeps"):
                frames = generator.step(prompt).frames
            video = generator.finalize()

    A segment that fails changes nothing: the step may be tried again. Sound is not kept.
    """

    _video: _Video | None = None

    def reset(self, *, output: str | Path | None = None) -> None:
        """Begin a new video; one that was begun is dropped.

        Args:
            output: the MP4 that ``finalize`` writes. None writes none.

        Raises:
            InputError: the output cannot be written, or the preset cannot continue from given frames.
        """
        preset = load_library(self._settings.effective_presets_dir).get(self.preset)
        if preset.continuation is None:
            message = f"{self.preset!r} cannot continue from given frames: it makes single clips"
            raise InputError([Problem(message, field="preset")])
        path = None if output is None else Path(output)
        if path is not None:
            one_clip.Output(path).check()
        self._drop()
        self._video = _Video(path)

    def step(self, request: VideoRequest | str, *, on_progress: OnEvent = _silent) -> VideoResult:
        """Make the next segment. The first one may begin with an image.

        The result's ``frames`` are those that it adds to the video: a later segment repeats some of the one before,
        and they are left out.

        Raises:
            ConflictError: ``reset`` was not called.
            InputError: the request breaks a rule, or has another size or rate than the video.
            StageError: it cannot be made; StoppedError after ``stop``.
        """
        video_request = VideoRequest(request) if isinstance(request, str) else request
        job, submission = planned(video_request, self.preset, self._settings, Path.cwd())
        video = self._begun()
        preset = load_library(self._settings.effective_presets_dir).get(self.preset)
        assert preset.continuation is not None, "reset refuses others"
        seam = preset.continuation.frames
        problems = _problems(video, job.spec.width, job.spec.height, job.spec.fps)
        if job.spec.num_frames < 2 * seam:
            problems.append(Problem(f"{job.spec.num_frames} are less than {2 * seam}", field="num_frames"))
        if problems:
            raise InputError(problems)
        with self._busy:
            self._stopping.clear()
            folder = Path(video.folder.name)
            result, state = one_clip.make_segment(
                job, submission, self._services(on_progress), folder, video.state, seam
            )
            video.add(result, state)
        return result

    async def step_async(self, request: VideoRequest | str) -> AsyncIterator[ClipEvent]:
        """Make the next segment beside the event loop: a ``ProgressEvent`` at each step, then one ``FinalEvent``.

        Whoever leaves the loop early, or is cancelled, stops the segment. Raises what ``step`` does.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[ProgressEvent | None] = asyncio.Queue()

        def report(event: ProgressEvent) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def work() -> VideoResult:
            try:
                return self.step(request, on_progress=report)
            finally:
                loop.call_soon_threadsafe(events.put_nowait, None)

        task = asyncio.create_task(asyncio.to_thread(work))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield FinalEvent(await task)
        finally:
            if not task.done():
                self.stop()
                await asyncio.gather(task, return_exceptions=True)

    def finalize(self) -> StreamedVideo:
        """End the video, and write its MP4 where one was asked for, encoded as the settings say.

        Raises:
            ConflictError: no segment was made.
            RetryableError: it cannot be encoded, code ``encoder_failed`` or ``disk_full``; it may be tried again.
        """
        video = self._begun()
        if not video.results:
            raise ConflictError("no segment was made: call step first")
        first, num_frames = video.results[0], sum(result.num_frames for result in video.results)
        video.frames.flush()
        if video.output is not None:
            options = {name: getattr(self._settings.encode, name) for name in EncodeOptions.model_fields}
            with draft_of(video.output.absolute()) as draft:
                ffmpeg.encode(
                    Path(video.folder.name) / "frames.rgb",
                    draft,
                    width=first.width,
                    height=first.height,
                    num_frames=num_frames,
                    fps=first.fps,
                    options=EncodeOptions.model_validate(options),
                    metadata={},
                    check=lambda: None,
                    timeout_s=self._settings.encode.timeout_s,
                )
        made = StreamedVideo(
            prompts=tuple(result.prompt_used for result in video.results),
            num_frames=num_frames,
            fps=first.fps,
            frames_sha256=video.digest.hexdigest(),
            segments_sha256=joined_digest([result.frames_sha256 for result in video.results]),
            video_path=video.output,
        )
        self._drop()
        return made

    def shutdown(self) -> None:
        """End the child process; a video that was begun is dropped."""
        super().shutdown()
        self._drop()

    def _begun(self) -> _Video:
        if self._video is None:
            raise ConflictError("no video was started: call reset first")
        return self._video

    def _drop(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close()


def _problems(video: _Video, width: int, height: int, fps: float) -> list[Problem]:
    """How a request differs from the segments before."""
    if not video.results:
        return []
    first = video.results[0]
    wanted = {"width": (width, first.width), "height": (height, first.height), "fps": (fps, first.fps)}
    return [
        Problem(f"{value:g} is not the video's {name}, {own:g}", field=name)
        for name, (value, own) in wanted.items()
        if value != own
    ]
