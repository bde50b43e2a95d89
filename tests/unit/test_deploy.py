"""deploy/: alert rules and the dashboard ask only for metrics, labels and values that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import promql_parser as promql
import pytest
import yaml

from pipeline.states import AttemptOutcome, JobState, Stage
from server.metrics.families import COUNTERS, GAUGES, HISTOGRAMS
from server.router.app import Router
from server.router.config import ReplicaEndpoint, RouterConfig
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
RULES = DEPLOY / "prometheus" / "vgen-alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "vgen.json"
OF_PROMETHEUS = {"instance", "pod"}
"""Labels that Prometheus adds."""
LABELS = {
    **{f"{family.name}_total": set(family.labels) for family in COUNTERS},
    **{f"{family.name}_bucket": {*family.labels, "le"} for family in HISTOGRAMS},
    **{f"{family.name}_{end}": set(family.labels) for family in HISTOGRAMS for end in ("sum", "count")},
    **{family.name: set(family.labels) for family in GAUGES},
}
"""The labels of each series that the server shows."""
VALUES: dict[tuple[str, str], type[StrEnum]] = {
    ("vgen_jobs_finished_total", "outcome"): JobState,
    ("vgen_attempts_total", "outcome"): AttemptOutcome,
    ("vgen_attempts_total", "stage"): Stage,
}


def expressions() -> dict[str, str]:
    """Every query, by the name of its alert or panel."""
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    queries = {rule["alert"]: rule["expr"] for group in rules for rule in group["rules"]}
    for panel in panels:
        queries |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return {name: query.replace("$__rate_interval", "5m") for name, query in queries.items()}


def nodes(expression: Any) -> Iterator[Any]:
    """The parts of a parsed query."""
    yield expression
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if (part := getattr(expression, name, None)) is not None and not isinstance(part, str):
            yield from nodes(part)
    for argument in getattr(expression, "args", None) or ():
        yield from nodes(argument)


def mistakes(query: str) -> list[str]:
    parts = list(nodes(promql.parse(query)))
    selectors = [part for part in parts if isinstance(part, promql.VectorSelector)]
    assert len(selectors) == len(re.findall(r"\bvgen_\w+", query))
    unknown = [part.name for part in selectors if part.name not in LABELS]
    if unknown:
        return [f"there is no {name}" for name in unknown]
    found = []
    for part in selectors:
        for matcher in part.matchers.matchers:
            if matcher.name not in LABELS[part.name]:
                found.append(f"{part.name} has no label {matcher.name}")
            known = VALUES.get((part.name, matcher.name))
            if known is not None and matcher.value not in {member.value for member in known}:
                found.append(f"{matcher.name} of {part.name} is never {matcher.value}")
    for part in parts:
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            below = [inner.name for inner in nodes(part) if isinstance(inner, promql.VectorSelector)]
            has = {label for name in below for label in LABELS[name]} | OF_PROMETHEUS
            found += [f"{below} have no label {label}" for label in part.modifier.labels if label not in has]
    return found


@pytest.mark.parametrize(("name", "query"), expressions().items())
def test_queries_ask_for_what_there_is(name: str, query: str) -> None:
    assert mistakes(query) == [], name


@pytest.mark.parametrize(("name", "query"), expressions().items())
def test_a_row_that_several_servers_show_is_counted_once(name: str, query: str) -> None:
    series = len(re.findall(r"\bvgen_\w+", query))

    assert query.count("max without (instance, pod) (") == series or query.startswith("absent("), name


@pytest.mark.parametrize(
    "query",
    [
        "vgen_none",
        'vgen_jobs{stage="generate"}',
        'vgen_jobs_finished_total{outcome="done"}',
        "sum by (stage) (vgen_jobs)",
        "histogram_quantile(0.5, sum by (le, worker) (rate(vgen_stage_duration_seconds_bucket[1h])))",
    ],
)
def test_what_there_is_not_is_found(query: str) -> None:
    assert mistakes(query)


def test_alerts_of_the_router_ask_for_what_it_shows() -> None:
    router = Router(RouterConfig((ReplicaEndpoint("http://a"),)))
    collected = router.metrics.collect(router.registry, draining=False, reload=router.last_reload)
    shown = {sample.name: set(sample.labels) for metric in collected for sample in metric.samples}

    rules = yaml.safe_load((DEPLOY / "prometheus" / "vgen-router-alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    for query in (promql.parse(rule["expr"]) for rule in rules):
        for part in nodes(query):
            if isinstance(part, promql.VectorSelector):
                assert {matcher.name for matcher in part.matchers.matchers} <= shown[part.name]


def test_every_metric_is_on_the_dashboard() -> None:
    text = DASHBOARD.read_text("utf-8")

    shown = {family.name for family in (*COUNTERS, *HISTOGRAMS, *GAUGES) if family.name in text}
    hidden = {"vgen_jobs_submitted", "vgen_attempts"}

    assert shown | hidden == {family.name for family in (*COUNTERS, *HISTOGRAMS, *GAUGES)}


def test_the_manual_has_every_metric_with_its_labels() -> None:
    table = (REPOSITORY / "docs" / "serving.md").read_text("utf-8").partition("## Metrics")[2]
    documented: dict[str, set[str]] = {}
    for cell, labels in re.findall(r"^\| (`vgen_.*?) \| (.*?) \|", table, re.MULTILINE):
        names = re.findall(r"`(\w+)`", cell)
        by_name = labels.split(";") if ";" in labels else [labels] * len(names)
        documented |= {name: set(re.findall(r"`(\w+)`", text)) for name, text in zip(names, by_name, strict=True)}

    expected = {f"{family.name}_total": set(family.labels) for family in COUNTERS}
    expected |= {family.name: set(family.labels) for family in (*HISTOGRAMS, *GAUGES)}
    assert documented == expected


def test_the_settings_that_annotations_name_are_there() -> None:
    reference = (REPOSITORY / "docs" / "settings.md").read_text("utf-8")

    for path in (RULES, DASHBOARD):
        for name in re.findall(r"VGEN_\w+", path.read_text("utf-8")):
            assert f"`{name}`" in reference
