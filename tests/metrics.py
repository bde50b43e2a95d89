"""What `/metrics` says, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[str, frozenset[tuple[str, str]]]
"""A name and its labels."""


def scrape(client: httpx.Client) -> dict[Sample, float]:
    """Every sample."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return samples_of(answer.text)


def samples_of(text: str) -> dict[Sample, float]:
    """Every sample of an answer."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def only_grow(samples: Mapping[Sample, float]) -> dict[Sample, float]:
    """Those of counters and histograms."""
    endings = ("_total", "_bucket", "_sum", "_count")
    return {sample: value for sample, value in samples.items() if sample[0].endswith(endings)}


def total(samples: Mapping[Sample, float], name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    wanted = set(labels.items())
    return sum(value for (sample, has), value in samples.items() if sample == name and wanted <= has)
