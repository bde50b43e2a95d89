"""Alternatives to a prompt."""

from dataclasses import dataclass

from pipeline.enhancers.enhancer import PromptEnhancer
from pipeline.enhancers.system_prompts import Operation


@dataclass(frozen=True, slots=True)
class RewriteOptions:
    """The number of alternatives, and how freely they are written; ``temperature`` None is that of the settings."""

    count: int = 3
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count: {self.count} is less than 1")


@dataclass(frozen=True, slots=True)
class RewriteResult:
    """Alternatives to ``seed_prompt``: at most as many as asked for, since a model may answer fewer."""

    seed_prompt: str
    alternatives: tuple[str, ...]
    provider: str
    model: str
    latency_ms: int
    fallback_used: bool


def build_rewrite(enhancer: PromptEnhancer, seed_prompt: str, options: RewriteOptions | None = None) -> RewriteResult:
    """Ask for alternatives; bullets, numbering and repetitions are taken away (see ``cleaning``).

    Raises:
        ValueError: the seed prompt is empty.
        RetryableError, RefusedError: as in ``PromptEnhancer.ask``.
    """
    options = options or RewriteOptions()
    if not seed_prompt.strip():
        raise ValueError("seed_prompt: is empty; a rewrite needs something to rewrite")
    question = f"Write {options.count} alternatives to this prompt:\n{seed_prompt}"
    answer = enhancer.ask(
        Operation.REWRITE, question, seed_prompt=seed_prompt, temperature=options.temperature, one_line=False
    )
    alternatives = tuple(answer.content.split("\n"))[: options.count]
    return RewriteResult(
        seed_prompt, alternatives, answer.provider, answer.model, answer.latency_ms, answer.fallback_used
    )
