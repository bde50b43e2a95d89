"""Screens the prompts of a job: what was written, and what will be generated.

What the policy makes of a verdict:

                 unsafe     classifier configured, but unusable
    closed       blocked    tried again, then failed
    hold         held       tried again, then failed
    open         blocked    generated; ``unavailable`` is recorded and logged

Without a configured classifier the stage is skipped. The negative prompt is not screened: it names what to avoid.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import RetryableError
from pipeline.safety.filter import PromptSafetyFilter
from pipeline.safety.result import SafetyDecision, SafetyResult
from pipeline.stages.base import Outcome, StageContext, StageResult, StepWork

logger = logging.getLogger(__name__)


def run(work: StepWork, context: StageContext) -> StageResult:
    """Decide whether the job may go on.

    ``output``: ``screened``; if screened also ``decision``, ``score``, ``label``, ``reason``, ``text`` (``original`` or
    ``enhanced``: which one decided), ``model_version``, ``threshold`` and ``policy``.

    Raises:
        RetryableError: code ``classifier_unavailable``; the policy is ``closed`` or ``hold``.
    """
    settings = context.settings.safety
    if settings.classifier is None:
        return StageResult(Outcome.SKIPPED, {"screened": False, "reason": "no classifier is configured"})
    policy = work.options.safety_policy
    name, result = _decide(_filter(settings.classifier, settings.threshold), _texts(work))
    output = _output(name, result) | {"threshold": settings.threshold, "policy": policy}
    match result.decision:
        case SafetyDecision.ALLOW:
            return StageResult(Outcome.DONE, output)
        case SafetyDecision.BLOCK:
            return StageResult(Outcome.HELD if policy == "hold" else Outcome.BLOCKED, output)
        case SafetyDecision.UNAVAILABLE:
            if policy != "open":
                raise RetryableError(
                    f"safety policy {policy} generates nothing unscreened, and the classifier cannot be used: "
                    f"{result.reason}",
                    code="classifier_unavailable",
                )
            logger.warning("prompt not screened", extra={"job_id": work.job_id, "reason": result.reason})
            return StageResult(Outcome.DONE, output)


def _texts(work: StepWork) -> dict[str, str]:
    texts = {"original": work.spec.prompt}
    enhanced = work.outputs.get("enhance", {}).get("prompt")
    if enhanced is not None and enhanced != work.spec.prompt:
        texts["enhanced"] = enhanced
    return texts | _segment_texts(work)


def _segment_texts(work: StepWork) -> dict[str, str]:
    """The prompts of the segments after the first, as they were written (by a person or the enhancer) and enhanced."""
    texts = {f"segment {k}": text for k, text in enumerate(work.spec.segment_prompts[1:], 2)}
    for k, made in enumerate(work.outputs.get("enhance", {}).get("segments", [])[1:], 2):
        texts |= {f"segment {k}": made["original"], f"segment {k}, enhanced": made["prompt"]}
    first_names = {text: name for name, text in reversed(texts.items())}
    return {name: text for text, name in reversed(first_names.items()) if text != work.spec.prompt}


def _decide(safety_filter: PromptSafetyFilter, texts: dict[str, str]) -> tuple[str, SafetyResult]:
    """The first verdict that is not ``allow``, else the one on what will be generated."""
    results = {}
    for name, text in texts.items():
        results[name] = safety_filter.screen(text)
        if results[name].decision is not SafetyDecision.ALLOW:
            break
    return next(reversed(results.items()))


def _output(name: str, result: SafetyResult) -> dict[str, Any]:
    return {
        "screened": result.decision is not SafetyDecision.UNAVAILABLE,
        "decision": result.decision.value,
        "score": result.score,
        "label": result.label,
        "reason": result.reason,
        "text": name,
        "model_version": result.model_version,
    }


@lru_cache(maxsize=4)
def _filter(classifier: Path, threshold: float) -> PromptSafetyFilter:
    return PromptSafetyFilter(classifier, block_threshold=threshold)
