"""Compare the time and memory of clips with earlier ones, per preset and GPU type."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.scoring.compare.statistics import median
from pipeline.scoring.compare.verdict import State

WINDOW = 5


@dataclass(frozen=True, slots=True)
class SpeedSample:
    """One run's speed with one preset on one GPU type (``cpu`` without one)."""

    preset: str
    gpu_type: str
    seconds_per_clip: float
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """Worse is what exceeds the median by both: a share alone alarms on short clips, a step alone on long ones."""

    relative: float
    absolute: float


SECONDS = Threshold(0.10, 1.0)
BYTES = Threshold(0.05, 256 * 1024**2)
"""The threshold of peak memory; allocators round to blocks of megabytes, so a smaller step is noise."""


@dataclass(frozen=True, slots=True)
class SpeedVerdict:
    """One measure (``seconds_per_clip`` or ``peak_bytes``). ``median`` is None with fewer than five runs before it."""

    preset: str
    gpu_type: str
    measure: str
    state: State
    value: float
    median: float | None


def speed_verdicts(
    history: Sequence[SpeedSample], now: Iterable[SpeedSample], thresholds: Mapping[str, Threshold] | None = None
) -> list[SpeedVerdict]:
    """Each new sample against the median of the last five of its preset and GPU type; history oldest first.

    A memory that was not measured is left out. State is ok, regressed, or no_calibration without five samples.
    """
    limits = {"seconds_per_clip": SECONDS, "peak_bytes": BYTES, **(thresholds or {})}
    verdicts = []
    for sample in now:
        before = [old for old in history if (old.preset, old.gpu_type) == (sample.preset, sample.gpu_type)]
        for measure in ("seconds_per_clip", "peak_bytes"):
            value = getattr(sample, measure)
            if value is None:
                continue
            past = [getattr(old, measure) for old in before if getattr(old, measure) is not None][-WINDOW:]
            usual = median(past) if len(past) == WINDOW else None
            state = _state(value, usual, limits[measure])
            verdicts.append(SpeedVerdict(sample.preset, sample.gpu_type, measure, state, float(value), usual))
    return verdicts


def _state(value: float, usual: float | None, limit: Threshold) -> State:
    if usual is None:
        return State.NO_CALIBRATION
    worse = value > usual * (1 + limit.relative) and value > usual + limit.absolute
    return State.REGRESSED if worse else State.OK
