"""Records how much of a clip's texts the loaded pipeline read."""

from typing import Any

from pipeline.generators.base import GenerationRequest
from pipeline.models.text_limits import may_exceed
from pipeline.presets import Preset
from pipeline.presets.binding import negative_prompt_acts, token_limit
from pipeline.presets.signatures import signature_of


def text_facts(pipe: Any, preset: Preset, request: GenerationRequest) -> dict[str, Any]:
    """``tokens_read``: by field, ``read`` and ``of``, of texts that were cut; ``negative_prompt_used``: False of one
    that had no effect. Nothing where all was read."""
    if not preset.takes_prompt:
        return {}
    signature = signature_of(pipe.__call__, has_guider=getattr(pipe, "guider", None) is not None)
    negative, facts = request.spec.negative_prompt, dict[str, Any]()
    texts = {"prompt": request.prompt}
    if negative and negative_prompt_acts(signature, preset, request.spec.guidance_scale):
        texts["negative_prompt"] = negative
    elif negative:
        facts["negative_prompt_used"] = False
    limit = token_limit(signature, preset) or getattr(pipe, "tokenizer_max_length", None)
    tokenizer = getattr(pipe, "tokenizer", None)
    if type(limit) is not int or not callable(tokenizer):
        return facts
    counts = {field: _count(tokenizer, text) for field, text in texts.items() if may_exceed(text, limit)}
    cut = {field: {"read": limit, "of": count} for field, count in counts.items() if count > limit}
    return facts | ({"tokens_read": cut} if cut else {})


def _count(tokenizer: Any, text: str) -> int:
    """Tokens with those that are put around the text, as the pipeline's own call has them."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
