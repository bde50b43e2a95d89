"""Seeds that are derived: of jobs that were given none, of segments, and of rolls."""

import hashlib

MAX_DERIVED = 2**53 - 1
"""JavaScript, spreadsheets and many readers of JSON keep whole numbers up to here, and round larger ones."""


def derive_seed(prompt: str, variant: int, occurrence: int) -> int:
    """The seed of a job that was given none, below 2**53.

    It follows from the prompt, the job's place among its line's, and which of the file's lines with this prompt (from
    0) it is: a line that is added elsewhere in the file changes no other line's seed.
    """
    return _seed_of(f"{occurrence}:{variant}:{prompt}")


def _seed_of(text: str) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") & MAX_DERIVED


def segment_seed(seed: int, segment: int) -> int:
    """The seed of a clip's segment: the clip's own for the first, so that it is the clip of one segment."""
    if segment == 0:
        return seed
    return _seed_of(f"{seed}:segment:{segment}")


def roll_seed(seed: int, roll: int) -> int:
    """The seed of a job's roll: its own for the first, a derived one for each further roll.

    Not ``seed + 1``, which in a line with seeds 1 to 4 is the next job's.
    """
    return seed if roll == 1 else _seed_of(f"{seed}:roll:{roll}")
