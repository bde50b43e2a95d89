"""The memory ladder: what is tried, rung by rung, when a clip does not fit into a GPU's memory. A pure function.

After the last rung another GPU type is tried, which is the rows' business (``db.clips.memory_ladder``).
"""

from enum import IntEnum

from pipeline.acceleration import Acceleration

CLIPS_TO_LEARN = 2
"""After this many clips of one shape in a row that needed a rung, the next one begins on it."""
REMEMBER_MS = 7 * 24 * 3_600_000
"""After this time a shape is tried plainly again: drivers and libraries change what fits."""


class Rung(IntEnum):
    """A rung of the memory ladder; stored as its number."""

    PLAIN = 0
    """The clip is made as its job says."""
    AGAIN = 1
    """The same once more, after the worker freed what it could."""
    TILED = 2
    """The VAE decodes in tiles: other pixels, so the clip begins again from its seed."""
    OFFLOADED = 3
    """Weights wait in the host's memory as well: slower, the same pixels."""


def on_rung(base: Acceleration, rung: Rung) -> Acceleration:
    """The job's acceleration with what the rung adds."""
    acceleration = base
    if rung >= Rung.TILED:
        acceleration = acceleration.model_copy(update={"vae_tiling": True})
    if rung >= Rung.OFFLOADED and acceleration.offload is None:
        acceleration = acceleration.model_copy(update={"offload": "group"})
    return acceleration


def next_rung(base: Acceleration, rung: Rung) -> Rung | None:
    """The rung after this one; those that change nothing for the job are left out. None after the last."""
    for higher in Rung:
        if higher > rung and (higher is Rung.AGAIN or on_rung(base, higher) != on_rung(base, rung)):
            return higher
    return None


def changes_pixels(base: Acceleration, before: Rung, after: Rung) -> bool:
    """Return whether the clip has to begin again from its seed."""
    return on_rung(base, before).pixels() != on_rung(base, after).pixels()
