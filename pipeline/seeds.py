"""Seeds that are derived: of jobs that were given none, of segments, and of rolls."""

import hashlib

from pipeline.spec import MAX_SEED


def derive_seed(fingerprint: str, line: int, variant: int) -> int:
    """The seed of a job that was given none, in ``0 .. 2**63 - 1``: the same file has the same seeds every time."""
    digest = hashlib.sha256(f"{fingerprint}:{line}:{variant}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


def segment_seed(seed: int, segment: int) -> int:
    """The seed of a clip's segment: the clip's own for the first, so that it is the clip of one segment."""
    if segment == 0:
        return seed
    digest = hashlib.sha256(f"{seed}:segment:{segment}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


def roll_seed(seed: int, roll: int) -> int:
    """The seed of a job's roll: its own for the first, a derived one for each further roll.

    Not ``seed + 1``, which in a line with seeds 1 to 4 is the next job's.
    """
    return seed if roll == 1 else derive_seed(f"roll:{seed}", roll, 0)
