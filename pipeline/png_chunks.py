"""What Pillow leaves out of a PNG file: its colour code, by which HDR pictures say that they are."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">I4s")
_HDR = {16: "PQ", 18: "HLG"}
_SDR_TRANSFERS = (1, 2, 6, 13, 14, 15)
"""BT.709, unspecified, BT.601, sRGB and the two of BT.2020 differ too little to be seen."""
_SRGB_PRIMARIES = (1, 2)
MAX_CHUNKS = 10_000
"""Before the pixels; real files have some ten."""


@dataclass(frozen=True, slots=True)
class ColourCode:
    """The chunk cICP (PNG, third edition): numbers of ITU-T H.273."""

    primaries: int
    transfer: int

    @property
    def hdr(self) -> bool:
        return self.transfer in _HDR

    @property
    def transfer_name(self) -> str:
        return _HDR.get(self.transfer, str(self.transfer))

    @property
    def wide(self) -> bool:
        """Whether its colours are other than sRGB's."""
        return self.primaries not in _SRGB_PRIMARIES or self.transfer not in _SDR_TRANSFERS


def colour_code(data: bytes) -> ColourCode | None:
    """Of a PNG file that has one before its pixels."""
    place = len(_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if place + _HEAD.size > len(data):
            return None
        length, kind = _HEAD.unpack_from(data, place)
        body = place + _HEAD.size
        if kind == b"IDAT":
            return None
        if kind == b"cICP" and length >= 2 and body + 2 <= len(data):
            return ColourCode(data[body], data[body + 1])
        place = body + length + 4
    return None
