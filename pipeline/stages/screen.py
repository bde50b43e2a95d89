"""The screen stage: screens the prompts as written, and what the model's text encoders will see.

What the policy makes of a verdict:

                 unsafe     classifier configured, but unusable
    closed       blocked    tried again, then failed
    hold         held       tried again, then failed
    open         blocked    generated; ``unavailable`` is recorded and logged

Without a configured classifier the stage is skipped, unless the policy was asked for by name (``must_screen``). The
negative prompt is screened only where it draws (``pipeline.encoder_texts``).
"""

import logging

from pipeline.encoder_texts import NO_CALL_TEXTS, CallTexts, texts_to_screen
from pipeline.errors import RetryableError
from pipeline.outputs import ScreenOutput
from pipeline.presets import load_library
from pipeline.safety.filter import PromptSafetyFilter
from pipeline.safety.result import SafetyDecision, SafetyResult
from pipeline.work import Outcome, StageContext, StageResult, StepWork

logger = logging.getLogger(__name__)


def run(work: StepWork, context: StageContext) -> StageResult[ScreenOutput]:
    """Decide whether the job may go on.

    Raises:
        RetryableError: code ``classifier_unavailable``; the policy is ``closed`` or ``hold``.
    """
    policy, safety_filter = work.options.safety_policy, context.models.safety_filter
    if safety_filter is None:
        if work.options.must_screen:
            raise RetryableError(
                f"safety policy {policy} is required, and this worker has no classifier (VGEN_SAFETY_CLASSIFIER)",
                code="classifier_unavailable",
            )
        output = ScreenOutput(screened=False, reason="no classifier is configured")
        return StageResult(output, Outcome.SKIPPED)
    texts = texts_to_screen(work.spec, work.outputs.enhance, _call_texts(work, context))
    name, result = _decide(safety_filter, texts)
    output = ScreenOutput(
        screened=result.decision is not SafetyDecision.UNAVAILABLE,
        decision=result.decision.value,
        score=result.score,
        label=result.label,
        reason=result.reason,
        text=name,
        model_version=result.model_version,
        threshold=safety_filter.block_threshold,
        policy=policy,
    )
    match result.decision:
        case SafetyDecision.ALLOW:
            return StageResult(output)
        case SafetyDecision.BLOCK:
            return StageResult(output, Outcome.HELD if policy == "hold" else Outcome.BLOCKED)
        case SafetyDecision.UNAVAILABLE:
            if policy != "open":
                raise RetryableError(
                    f"safety policy {policy} generates nothing unscreened, and the classifier cannot be used: "
                    f"{result.reason}",
                    code="classifier_unavailable",
                )
            logger.warning("prompt not screened", extra={"job_id": work.job_id, "reason": result.reason})
            return StageResult(output)


def _call_texts(work: StepWork, context: StageContext) -> CallTexts:
    """Return what the preset says of its call, where this host has the preset."""
    preset = load_library(context.settings.effective_presets_dir).presets.get(work.spec.preset)
    return NO_CALL_TEXTS if preset is None else CallTexts(preset.arguments, preset.argument_names)


def _decide(safety_filter: PromptSafetyFilter, texts: dict[str, str]) -> tuple[str, SafetyResult]:
    """The first verdict that blocks, else the first that is not ``allow``, else the one on what will be generated."""
    unavailable, last = None, ("", SafetyResult("", SafetyDecision.ALLOW))
    for name, text in texts.items():
        last = name, safety_filter.screen(text)
        if last[1].decision is SafetyDecision.BLOCK:
            return last
        if last[1].decision is SafetyDecision.UNAVAILABLE:
            unavailable = unavailable or last
    return unavailable or last
