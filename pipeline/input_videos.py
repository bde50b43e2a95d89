"""Input videos: what is refused before anything is stored. Imports PyAV when the first one is looked at."""

from __future__ import annotations

from pathlib import Path

MAX_VIDEO_BYTES = 256 * 1024 * 1024
MAX_VIDEO_FRAMES = 3000
"""More are not looked at: a clip takes a few hundred, and looking means decoding."""
MAX_FRAME_PIXELS = 64_000_000
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""FFmpeg's names. Playlists and other formats that lead to further files or addresses are none of them."""
VIDEO_TYPES = {
    "mov,mp4,m4a,3gp,3g2,mj2": "video/mp4",
    "matroska,webm": "video/x-matroska",
    "avi": "video/x-msvideo",
}
"""Media type by FFmpeg's name of the demuxer."""
ACCEPTED_TYPES = (*VIDEO_TYPES.values(), "video/webm", "video/quicktime", "video/matroska", "video/avi")


def check_video(path: Path, name: str) -> tuple[str, int]:
    """Media type and number of frames, after decoding every one: a broken file must not wait for a GPU to be found out.

    Raises:
        ValueError: the message has the name and the rule.
    """
    import av  # noqa: PLC0415 - slow to load, and most files name no video
    from av.error import FFmpegError  # noqa: PLC0415

    frames = 0
    try:
        with av.open(str(path), options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}) as container:
            media_type = VIDEO_TYPES.get(container.format.name)
            if media_type is None or not container.streams.video:
                raise ValueError(f"{name!r} is not an MP4, QuickTime, Matroska, WebM or AVI file with a video stream")
            stream = container.streams.video[0]
            if stream.codec_context.width * stream.codec_context.height > MAX_FRAME_PIXELS:
                raise ValueError(f"{name!r} has frames of more than {MAX_FRAME_PIXELS} pixels")
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise ValueError(f"{name!r} is broken at frame {frames}")
                frames += 1
                if frames > MAX_VIDEO_FRAMES:
                    raise ValueError(f"{name!r} has more than {MAX_VIDEO_FRAMES} frames; cut it")
    except (FFmpegError, OSError) as error:
        what = "is not an MP4, QuickTime, Matroska, WebM or AVI file" if not frames else f"is broken at frame {frames}"
        raise ValueError(f"{name!r} {what}: {error.strerror}") from None
    if not frames:
        raise ValueError(f"{name!r} holds no frame")
    return media_type, frames
