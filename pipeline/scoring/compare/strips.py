"""The difference of two clips as one picture: frames of the baseline, of the candidate, and how far they are apart."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from pipeline.errors import NotFoundError, StageError
from pipeline.scoring.clip import Clip
from pipeline.scoring.compare.comparison import Comparison
from pipeline.scoring.compare.report import worst_prompts
from pipeline.scoring.compare.runs import Key

FRAMES = 6
"""Frames of a clip that are shown, from the first to the last."""
AMPLIFIED = 4
"""The factor by which differences are brightened: one of a quarter of the range is white."""
_WIDTH = 160
"""Pixels of a frame in the picture."""
_QUALITY = 85

ReadPair = Callable[[Key], tuple[Clip, Clip]]
"""Reads the baseline's clip and the candidate's. Raises StageError or NotFoundError where one cannot be read."""


def difference_strip(baseline: Clip, candidate: Clip) -> bytes | None:
    """A JPEG of three rows: the baseline's frames, the candidate's, and their amplified difference.

    None if the clips differ in size or length, as their pixels cannot be compared then.
    """
    if baseline.frames.shape != candidate.frames.shape:
        return None
    count, height, width = baseline.frames.shape[:3]
    size = (_WIDTH, max(1, round(_WIDTH * height / width)))
    columns = []
    for index in np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int):
        before, after = (clip.frames[index].astype(np.int16) for clip in (baseline, candidate))
        apart = np.minimum(np.abs(after - before) * AMPLIFIED, 255)
        pictures = [Image.fromarray(rows.astype(np.uint8)).resize(size) for rows in (before, after, apart)]
        columns.append(np.concatenate([np.asarray(picture) for picture in pictures]))
    data = io.BytesIO()
    Image.fromarray(np.concatenate(columns, axis=1)).save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()


def strips_of_worst(comparison: Comparison, read: ReadPair) -> Mapping[Key, bytes]:
    """A difference strip for each clip that the report shows, by its key; clips that cannot be read are left out."""
    strips: dict[Key, bytes] = {}
    for compared in comparison.metrics:
        for prompt in worst_prompts(compared) if compared.margin is not None else ():
            key = Key(prompt.entry, prompt.worst_seed)
            if key in strips:
                continue
            try:
                strip = difference_strip(*read(key))
            except (NotFoundError, StageError):
                continue  # the report shows the clips' addresses all the same
            if strip is not None:
                strips[key] = strip
    return strips
