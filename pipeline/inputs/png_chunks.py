"""Reads the chunks of a PNG file: their number, and those that Pillow ignores but that mark HDR pictures."""

import struct
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
"""Pillow reads them one by one; a file of 32 MB in chunks of 1 KB has a third of them."""
_HEAD = struct.Struct(">I4s")
_BIT_DEPTH = 24
"""Where it stands: the header is the first chunk."""
_HDR = {16: "PQ", 18: "HLG"}
_SDR_TRANSFERS = (1, 2, 6, 13, 14, 15)
"""BT.709, unspecified, BT.601, sRGB and the two of BT.2020 differ too little to be seen."""
_SRGB_PRIMARIES = (1, 2)


@dataclass(frozen=True, slots=True)
class ColourCode:
    """The chunk cICP (PNG, third edition): numbers of ITU-T H.273."""

    primaries: int
    transfer: int

    @property
    def hdr(self) -> str | None:
        """The name of a transfer function of high dynamic range, None for others."""
        return _HDR.get(self.transfer)

    @property
    def wide(self) -> bool:
        """Return whether its colours are other than sRGB's."""
        return self.primaries not in _SRGB_PRIMARIES or self.transfer not in _SDR_TRANSFERS


def bit_depth(data: bytes) -> int | None:
    """Bits a channel (or a palette's index) of a PNG file, 1 to 16; None for other files."""
    return data[_BIT_DEPTH] if data.startswith(SIGNATURE) and len(data) > _BIT_DEPTH else None


def colour_code(data: bytes) -> ColourCode | None:
    """Return a PNG file's colour code if it stands before the pixels; None for others, and for other files.

    Raises:
        ValueError: it has more than ``MAX_CHUNKS`` chunks.
    """
    if not data.startswith(SIGNATURE):
        return None
    place, code, before_pixels = len(SIGNATURE), None, True
    for _ in range(MAX_CHUNKS):
        if place + _HEAD.size > len(data):
            return code
        length, kind = _HEAD.unpack_from(data, place)
        body = place + _HEAD.size
        before_pixels = before_pixels and kind != b"IDAT"
        if before_pixels and kind == b"cICP" and length >= 2 and body + 2 <= len(data):
            code = ColourCode(data[body], data[body + 1])
        place = body + length + 4
    raise ValueError(f"it has more than {MAX_CHUNKS} chunks")
