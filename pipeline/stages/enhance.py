"""Makes a job's prompt richer, if its line asks for it."""

from pipeline.enhancers.enhancer import PromptEnhancer
from pipeline.outputs import EnhancedPrompt, EnhanceOutput
from pipeline.spec import JobSpec
from pipeline.work import Outcome, StageContext, StageResult, StepWork


def run(work: StepWork, context: StageContext) -> StageResult[EnhanceOutput | None]:
    """Ask the configured providers. All segments' prompts are known, and screened, before the first is generated.

    Raises:
        RefusedError: code ``enhance_not_configured``, ``enhance_key_missing``, ``enhance_refused`` or
            ``system_prompt_invalid``.
        RetryableError: code ``enhance_unavailable``; no provider answered.
    """
    spec = work.spec
    if not (spec.enhance or spec.auto_extend):
        return StageResult(None, Outcome.SKIPPED)
    enhancer = context.models.enhancer
    if spec.segments == 1:
        return StageResult(EnhanceOutput(**_asked(enhancer, spec.prompt_of(0), context).as_json()))
    records: list[EnhancedPrompt] = []
    for segment in range(spec.segments):
        records.append(_segment(enhancer, spec, records, segment, context))
    prompts = tuple(record.prompt for record in records)
    return StageResult(EnhanceOutput(**records[0].as_json(), prompts=prompts, segments=tuple(records)))


def _segment(
    enhancer: PromptEnhancer, spec: JobSpec, records: list[EnhancedPrompt], segment: int, context: StageContext
) -> EnhancedPrompt:
    """One segment's prompt. One that the enhancer wrote is enhanced like one that a person did."""
    if spec.auto_extend and segment > 0:
        extended = enhancer.auto_extend(records[-1].prompt, check=context.check)
        return _asked(enhancer, extended.content, context)
    if not spec.enhance:
        return EnhancedPrompt(prompt=spec.prompt_of(segment), original=spec.prompt_of(segment))
    if segment > 0 and not spec.segment_prompts:
        return records[0]  # one prompt for all of them
    return _asked(enhancer, spec.prompt_of(segment), context)


def _asked(enhancer: PromptEnhancer, prompt: str, context: StageContext) -> EnhancedPrompt:
    response = enhancer.enhance(prompt, check=context.check)
    return EnhancedPrompt(
        prompt=response.content,
        provider=response.provider,
        model=response.model,
        latency_ms=response.latency_ms,
        fallback_used=response.fallback_used,
        original=prompt,
    )
