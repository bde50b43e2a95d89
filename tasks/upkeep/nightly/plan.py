"""What a nightly evaluation makes and how it is judged, and the suite's jobs that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import InputError, Problem
from pipeline.prompts import Submission
from pipeline.prompts.scoring import split_names
from pipeline.scoring import Weights, gate, registry
from pipeline.scoring import compare as comparing
from pipeline.scoring.compare import power
from pipeline.scoring.suite import OWN_SUITE, read_suite
from pipeline.scoring.suite_jobs import submission_of
from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """The clips of a nightly run and how they are judged."""

    suite: Path = OWN_SUITE
    metrics: tuple[str, ...] = ("checks", "common", "vbench")
    margins: Mapping[str, float] = field(default_factory=dict)
    baseline: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    """The fields of its jobs, as on the command line: preset, seeds, num_frames, …"""
    repeat_seeds: str = ""

    @classmethod
    def of_settings(cls, settings: Settings) -> Plan:
        """The plan that the settings describe. Raises InputError where a margin cannot be read."""
        nightly = settings.nightly
        return cls(
            suite=nightly.suite or OWN_SUITE,
            metrics=split_names(nightly.metrics),
            margins=comparing.read_margins(split_names(nightly.margins), "VGEN_NIGHTLY_MARGINS"),
            baseline=nightly.baseline,
            repeat_seeds=nightly.repeat_seeds,
            fields={"seeds": nightly.seeds, **({"preset": nightly.preset} if nightly.preset else {})},
        )


def with_options(plan: Plan, **changes: Any) -> Plan:
    """The plan with those of the changes that are not None; fields are added to its own."""
    fields = {**plan.fields, **(changes.pop("fields", None) or {})}
    if "seed" in fields:
        fields.pop("seeds", None)
    return replace(plan, fields=fields, **{name: value for name, value in changes.items() if value is not None})


def before_the_night(plan: Plan, settings: Settings) -> list[str]:
    """Return what the suite can detect by its number of prompts, a sentence for all metrics of the same power.

    Where this process makes the night itself (solo mode), metrics whose weights it lacks are left out.
    """
    metrics = [metric for metric in gate.check_metrics(plan.metrics, reference=True) if metric.group != gate.CHECKS]
    if settings.solo:
        weights = Weights(settings.eval.weights_dir)
        metrics = [metric for metric in metrics if not registry.readiness(metric, weights).missing]
    return power.sentences(power.detectable(read_suite(plan.suite), metrics, plan.margins))


def check_margins(plan: Plan) -> None:
    """Raises InputError where a metric is unknown or cannot be scored, or where a margin's metric is not scored."""
    scored = {metric.name for metric in gate.check_metrics(plan.metrics, reference=True)}
    lost = [name for name in plan.margins if name not in scored]
    if lost:
        raise InputError([Problem(f"{name} is not among the night's metrics", field="margin") for name in lost])


def suite_of(plan: Plan, settings: Settings) -> tuple[Submission, dict[str, Any]]:
    """The suite's jobs, and what is to be remembered of it. Raises InputError."""
    suite = read_suite(plan.suite)
    parsed = submission_of(suite, plan.fields, settings)
    description = {"sha256": suite.sha256, "entries": len(suite.entries), "standard": suite.standard}
    return parsed, {**description, "preset": parsed.jobs[0].spec.preset, "fields": dict(plan.fields)}


def identity_of(plan: Plan, description: Mapping[str, Any]) -> str:
    """What nights that are compared with each other have in common."""
    alike = {
        "suite": description["sha256"],
        "metrics": plan.metrics,
        "fields": description["fields"],
        "preset": description["preset"],
    }
    return sha256_hex(canonical_json(alike))


def scored_metrics(metrics: Sequence[str], reference: str | None) -> tuple[str, ...]:
    """The metrics of a run: without a run to compare with, none of those that need its clips."""
    if reference is not None:
        return tuple(metrics)
    names = (*registry.METRICS, *registry.GROUPS)
    alone = [name for name in metrics if name not in names or not _needs_reference(name)]
    return tuple(alone) or (gate.CHECKS,)  # a first night of likenesses alone: something must be scored


def _needs_reference(name: str) -> bool:
    return all(registry.METRICS[member].perfect is not None for member in registry.GROUPS.get(name, (name,)))
