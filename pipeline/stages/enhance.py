"""Makes a job's prompt richer, if its line asks for it."""

from __future__ import annotations

from pipeline.enhancers.enhancer import PromptEnhancer
from pipeline.errors import RefusedError, SettingsError
from pipeline.settings import EnhanceSettings
from pipeline.stages.base import Outcome, StageContext, StageResult, StepWork


def run(work: StepWork, context: StageContext) -> StageResult:
    """Ask the configured providers.

    ``output``: ``prompt`` (the one to generate), ``provider``, ``model``, ``latency_ms``, ``fallback_used`` and
    ``original``.

    Raises:
        RefusedError: code ``enhance_not_configured``, ``enhance_key_missing``, ``enhance_refused`` or
            ``system_prompt_invalid``.
        RetryableError: code ``enhance_unavailable``; no provider answered.
    """
    if not work.spec.enhance:
        return StageResult(Outcome.SKIPPED)
    response = _enhancer(context.settings.enhance).enhance(work.spec.prompt, check=context.check)
    output = {
        "prompt": response.content,
        "provider": response.provider,
        "model": response.model,
        "latency_ms": response.latency_ms,
        "fallback_used": response.fallback_used,
        "original": work.spec.prompt,
    }
    return StageResult(Outcome.DONE, output)


def close() -> None:
    """Close the connections that are kept open from job to job."""
    while _enhancers:
        _enhancers.popitem()[1].close()


_enhancers: dict[EnhanceSettings, PromptEnhancer] = {}
"""A process has one set of settings; connecting anew for each job would cost more than the rest of the stage."""


def _enhancer(settings: EnhanceSettings) -> PromptEnhancer:
    if settings not in _enhancers:
        try:
            _enhancers[settings] = PromptEnhancer.from_settings(settings)
        except SettingsError as error:
            raise RefusedError(str(error), code="enhance_not_configured") from None
    return _enhancers[settings]
