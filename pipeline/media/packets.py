"""A digest of the compressed content of a media file, independent of its container."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from pipeline.media.opening import open_media

_PACKETS_PER_CHECK = 64


def packets_sha256(path: Path, check: Callable[[], None] = lambda: None, *, sound_only: bool = False) -> str | None:
    """sha256 of the streams' codecs, parameters and packets with their times; None where there is no such stream.

    Titles, comments and dates of the container do not count, so that two encodings of equal frames with equal settings
    by one encoder have the same digest. ``check`` is called every few packets.

    Raises:
        UnreadableMediaError: it cannot be opened or read.
    """
    digest = hashlib.sha256()
    with open_media(path) as container:
        streams = [*([] if sound_only else container.streams.video), *container.streams.audio]
        if not streams:
            return None
        for stream in streams:
            context = stream.codec_context
            digest.update(f"{stream.type} {context.codec.canonical_name} {stream.time_base}\n".encode())
            digest.update(context.extradata or b"")
        for number, packet in enumerate(container.demux(streams)):
            if number % _PACKETS_PER_CHECK == 0:
                check()
            digest.update(f"{packet.stream_index} {packet.pts} {packet.duration} {packet.size}\n".encode())
            digest.update(bytes(packet))
    return digest.hexdigest()
