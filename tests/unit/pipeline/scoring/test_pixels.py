"""Pre-processing details that the oracle's clips do not show by themselves."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.scoring.models import pixels
from pipeline.scoring.models.tokens import load_tokens


@pytest.mark.parametrize(
    ("count", "wanted", "indices"),
    [
        (16, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (81, 8, [4, 14, 24, 34, 44, 54, 64, 75]),
        (3, 8, [0, 1, 2, 2, 2, 2, 2, 2]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_middle_frames(count: int, wanted: int, indices: list[int]) -> None:
    assert pixels.middle(count, wanted) == indices


def test_bilinear_bytes_are_opencvs() -> None:
    """Checksums of cv2.resize(…, INTER_LINEAR), OpenCV 5.0.0, of the same bytes."""
    random = np.random.RandomState(0)
    for (height, width), (to_height, to_width), checksum in CHECKSUMS:
        frame = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        assert zlib.crc32(pixels.bilinear_bytes(frame, to_height, to_width).tobytes()) == checksum


CHECKSUMS = (
    ((96, 96), (256, 256), 4108275946),
    ((65, 97), (256, 382), 2118609696),
    ((131, 67), (500, 256), 3171915499),
    ((360, 640), (256, 455), 3770739358),
    ((480, 832), (256, 443), 3077924873),
    ((512, 512), (256, 256), 1620951228),
)


def test_texts_are_mended_before_they_become_tokens(weights_folder: Path) -> None:
    tokens = load_tokens(weights_folder / "bpe_simple_vocab_16e6.txt.gz")
    assert tokens.ids("a  Person&amp;bike") == tokens.ids("A person & bike")
    assert tokens.ids("the") == [tokens.start, tokens.ids("the")[1], tokens.end]
    assert max(tokens.ids("caf\u00e9 \u2014 \U0001f6b2")) == tokens.end
