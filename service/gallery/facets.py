"""The filters of a wall: states, labels, presets and metrics, with their numbers of clips."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.views.batches import BatchView

_MOST_VALUES = 200
"""Longer choices are of no use to anybody; the text filter finds the rest."""


@dataclass(frozen=True, slots=True)
class Facets:
    """Values and how many clips have each, most frequent first."""

    states: Sequence[tuple[str, int]]
    labels: Sequence[tuple[str, int]]
    """As ``name=value``."""
    presets: Sequence[tuple[str, int]]
    metrics: Sequence[str]


def facets_of(batch: BatchView, records: Sequence[Mapping[str, Any]]) -> Facets:
    """Return the facets of these clips' records; states in the order of the batch's counts."""
    states = Counter(record["state"] for record in records)
    labels = Counter(f"{name}={value}" for record in records for name, value in record.get("labels", {}).items())
    presets = Counter(record["preset"] for record in records)
    metrics = dict.fromkeys(metric for record in records for metric in record.get("scores", {}))
    return Facets(
        states=[(state, states[state]) for state in batch.counts if states[state]],
        labels=labels.most_common(_MOST_VALUES),
        presets=presets.most_common(_MOST_VALUES),
        metrics=sorted(metrics),
    )
