"""One video, made segment by segment: each goes on where the one before ended."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

from pipeline.digests import joined_digest
from pipeline.encoding import ffmpeg
from pipeline.errors import ConflictError, InputError, Problem, RetryableError
from pipeline.files.drafts import draft_of
from pipeline.presets import load_library
from pipeline.spec import EncodeOptions, JobSpec
from pipeline.work import ContinuationRef
from vgen import one_clip
from vgen.events import ClipEvent
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
        self.frames: FileIO = (Path(self.folder.name) / "frames.rgb").open("wb", buffering=0)
        self.digest = hashlib.sha256()
        self.state: ContinuationRef | None = None
        self.results: list[VideoResult] = []
        self.first_image: str | Path | None = None
        self.first_last_image: str | Path | None = None

    def completed(self, request: VideoRequest) -> VideoRequest:
        """Return the request as it is planned: a preset may need an image, which only a first segment begins with.

        Raises:
            InputError: it has an image, and is not for the first segment.
        """
        if not self.results:
            return request
        given = [name for name in ("image", "last_image") if getattr(request, name) is not None]
        if given:
            rule = "only a video's first segment may have one; a later one goes on from the segment before"
            raise InputError([Problem(rule, field=name) for name in given])
        return replace(request, image=self.first_image, last_image=self.first_last_image)

    def add(self, request: VideoRequest, result: VideoResult, state: ContinuationRef | None) -> None:
        assert result.frames is not None
        data, end = result.frames.tobytes(), self.frames.tell()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self.frames.write(rest) :]
        except BaseException as error:  # of a full disk or a person: the segment may be tried again
            self.frames.seek(end)
            self.frames.truncate()
            if isinstance(error, OSError):
                raise RetryableError(f"{self.folder.name}: {error.strerror}", code="disk_full") from error
            raise
        self.digest.update(data)
        if not self.results:
            self.first_image, self.first_last_image = request.image, request.last_image
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
        """Begin a new video; one that was begun is dropped. A segment that another thread makes is waited for.

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
        with self._busy:
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
        preset = load_library(self._settings.effective_presets_dir).get(self.preset)
        assert preset.continuation is not None, "reset refuses others"
        seam = preset.continuation.frames
        with self._turn():
            video = self._begun()
            job, submission = planned(video.completed(video_request), self.preset, self._settings, Path.cwd())
            problems = _problems(video, job.spec)
            if job.spec.num_frames < 2 * seam:
                rule = f"a segment of {self.preset!r} has at least {2 * seam} frames, {seam} of which it repeats"
                problems.append(Problem(f"{job.spec.num_frames} is too few: {rule}", field="num_frames"))
            if problems:
                raise InputError(problems)
            folder = Path(video.folder.name)
            result, state = one_clip.make_segment(
                job, submission, self._services(on_progress), folder, video.state, seam
            )
            video.add(video_request, result, state)
        return result

    async def step_async(self, request: VideoRequest | str) -> AsyncIterator[ClipEvent]:
        """Make the next segment beside the event loop: a ``ProgressEvent`` at each step, then one ``FinalEvent``.

        Whoever leaves the loop early, or is cancelled, stops the segment. Raises what ``step`` does.
        """
        making = self._beside_the_loop(lambda report: self.step(request, on_progress=report))
        async with contextlib.aclosing(making):
            async for event in making:
                yield event

    def finalize(self) -> StreamedVideo:
        """End the video, and write its MP4 where one was asked for, encoded as the settings say.

        Raises:
            ConflictError: no segment was made.
            RetryableError: it cannot be encoded, code ``encoder_failed`` or ``disk_full``; it may be tried again.
        """
        with self._busy:
            return self._finalized(self._begun())

    def _finalized(self, video: _Video) -> StreamedVideo:
        if not video.results:
            raise ConflictError("no segment was made: call step first")
        first, num_frames = video.results[0], sum(result.num_frames for result in video.results)
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
        with self._busy:
            self._drop()

    def _begun(self) -> _Video:
        if self._video is None:
            raise ConflictError("no video was started: call reset first")
        return self._video

    def _drop(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close()


def _problems(video: _Video, spec: JobSpec) -> list[Problem]:
    """Return in what a request does not fit the segments before."""
    if not video.results:
        return []
    first = video.results[0]
    wanted = {"width": (spec.width, first.width), "height": (spec.height, first.height), "fps": (spec.fps, first.fps)}
    return [
        Problem(f"{value:g} is not the video's {name}, {own:g}", field=name)
        for name, (value, own) in wanted.items()
        if value != own
    ]
