"""The boxes of an MP4 (ISO/IEC 14496-12): a stream of bytes cut into its initialisation and its fragments, and the
codecs string that a browser must be told (RFC 6381), read from the initialisation itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HEADER = 8
_LARGE_HEADER = 16
_MAX_BOX = 256 * 1024 * 1024
"""A box that says it is longer was misread: a fragment of a quarter of a second has no such size."""
_VIDEO_ENTRY = 78
"""Bytes of a VisualSampleEntry before its own boxes (14496-12, 12.1.3)."""
_SOUND_ENTRY = 28
"""Bytes of an AudioSampleEntry before its own boxes (14496-12, 12.2.3)."""
_ES, _DECODER_CONFIG, _DECODER_SPECIFIC = 0x03, 0x04, 0x05
"""Tags of the descriptors in ``esds`` (14496-1, 7.2.2.1)."""
_AAC_OBJECT = 0x40
_INITIALISATION = (b"ftyp", b"moov")
_FRAGMENT = (b"styp", b"sidx", b"prft", b"emsg", b"moof", b"mdat")


class Mp4Error(ValueError):
    """Bytes that are not the MP4 that was expected; the message says what is wrong with them."""


class FragmentSplitter:
    """Cuts what a muxer writes into an initialisation (``ftyp``, ``moov``) and whole fragments (``moof``, ``mdat``)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Take bytes; yield ``(name, whole)`` for each part they complete, where name is ``moov`` or ``mdat``.

        Raises:
            Mp4Error: the bytes are not boxes.
        """
        self._buffer += data
        while (box := self._whole_box()) is not None:
            name, content = box
            if name not in _INITIALISATION and name not in _FRAGMENT:
                continue  # `free` and the index at the end: a player needs neither
            self._pending += content
            if name in (b"moov", b"mdat"):
                whole, self._pending = bytes(self._pending), bytearray()
                yield name, whole

    def _whole_box(self) -> tuple[bytes, bytes] | None:
        if len(self._buffer) < _HEADER:
            return None
        size = int.from_bytes(self._buffer[:4], "big")
        if size == 1:
            if len(self._buffer) < _LARGE_HEADER:
                return None
            size = int.from_bytes(self._buffer[8:16], "big")
        if not _HEADER <= size <= _MAX_BOX:
            raise Mp4Error(f"a box is {size} bytes long, which is not possible in a stream")
        if len(self._buffer) < size:
            return None
        content = bytes(self._buffer[:size])
        del self._buffer[:size]
        return content[4:8], content


def codecs_of(initialisation: bytes) -> tuple[str, ...]:
    """Return the RFC 6381 name of each track's codec, in the tracks' order: ``avc1.42c01e``, ``mp4a.40.2``.

    Raises:
        Mp4Error: a track is neither H.264 nor AAC, or its description is damaged.
    """
    try:
        names = tuple(_codec_of(track) for name, track in _boxes_in(initialisation, "moov") if name == b"trak")
    except (IndexError, struct.error) as error:
        raise Mp4Error(f"the initialisation is damaged: {error}") from None
    if not names:
        raise Mp4Error("the initialisation has no track")
    return names


def mime_of(initialisation: bytes) -> str:
    """Return the type under which a browser's SourceBuffer takes the stream. Raises Mp4Error."""
    return f'video/mp4; codecs="{", ".join(codecs_of(initialisation))}"'


def _codec_of(track: bytes) -> str:
    description = _inside(track, "mdia", "minf", "stbl", "stsd")
    entries = list(_boxes(description[8:]))  # after version, flags and the number of entries
    if not entries:
        raise Mp4Error("a track has no description of its samples")
    name, entry = entries[0]
    if name in (b"avc1", b"avc3"):
        configuration = _inside(entry[_VIDEO_ENTRY:], "avcC")
        # AVCDecoderConfigurationRecord (14496-15, 5.3.3.1): version, profile, compatibility, level.
        return f"{name.decode()}.{configuration[1:4].hex()}"
    if name == b"mp4a":
        return _sound_codec(_inside(entry[_SOUND_ENTRY:], "esds")[4:])
    raise Mp4Error(f"a track is of the kind {name!r}, which is neither H.264 nor AAC")


def _sound_codec(descriptors: bytes) -> str:
    """Read object type and audio object type from the elementary stream's descriptor (14496-1, 7.2.6.5)."""
    tag, content = _descriptor(descriptors)
    if tag != _ES:
        raise Mp4Error("the sound's description does not begin with an elementary stream")
    if content[2]:
        raise Mp4Error("the sound's elementary stream depends on others")
    tag, decoder = _descriptor(content[3:])
    if tag != _DECODER_CONFIG:
        raise Mp4Error("the sound's description names no decoder")
    object_type = decoder[0]
    if object_type != _AAC_OBJECT:
        return f"mp4a.{object_type:02x}"
    tag, specific = _descriptor(decoder[13:])
    if tag != _DECODER_SPECIFIC:
        raise Mp4Error("the sound's decoder has no settings of its own")
    audio_object = specific[0] >> 3
    if audio_object == 31:  # escaped: six more bits (14496-3, 1.6.2.1)
        audio_object = 32 + ((specific[0] & 7) << 3 | specific[1] >> 5)
    return f"mp4a.{object_type:02x}.{audio_object}"


def _descriptor(data: bytes) -> tuple[int, bytes]:
    """Return the tag and content of the first descriptor; its length has seven bits in each byte."""
    length, place = 0, 1
    while True:
        length = length << 7 | data[place] & 0x7F
        place += 1
        if not data[place - 1] & 0x80:
            break
        if place > 5:
            raise Mp4Error("a descriptor's length has too many bytes")
    return data[0], data[place : place + length]


def _inside(data: bytes, *path: str) -> bytes:
    for step in path:
        wanted = step.encode()
        data = next((content for name, content in _boxes(data) if name == wanted), b"")
        if not data:
            raise Mp4Error(f"the initialisation has no {step} box where one is needed")
    return data


def _boxes_in(data: bytes, *path: str) -> Iterator[tuple[bytes, bytes]]:
    return _boxes(_inside(data, *path))


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + _HEADER <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size < _HEADER or place + size > len(data):
            raise Mp4Error("a box is longer than what holds it")
        yield data[place + 4 : place + 8], data[place + _HEADER : place + size]
        place += size
