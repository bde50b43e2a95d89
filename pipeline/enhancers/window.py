"""The prompts of a whole video, one a segment, in one answer, so that each goes on from the one before."""

from collections.abc import Sequence

from pipeline.enhancers.enhancer import PromptEnhancer
from pipeline.enhancers.system_prompts import Operation


def write_window(enhancer: PromptEnhancer, idea: str, count: int, *, temperature: float | None = None) -> list[str]:
    """Return ``count`` prompts of successive segments of the video that ``idea`` describes.

    Raises:
        ValueError: the idea is empty, or the count below 1.
        RetryableError, RefusedError: as in ``PromptEnhancer.ask``; an answer with another number of prompts is
            no answer, and the next provider is asked.
    """
    if not idea.strip() or count < 1:
        raise ValueError("a window needs an idea, and at least one segment")
    question = f"Write {count} prompts, one for each segment of this video:\n{idea}"
    return _asked(enhancer, Operation.WRITE_WINDOW, question, idea, count, temperature)


def rewrite_window(
    enhancer: PromptEnhancer, prompts: Sequence[str], instruction: str, *, temperature: float | None = None
) -> list[str]:
    """Return as many prompts as are given, changed as ``instruction`` says; an empty one asks for better continuity.

    Raises:
        ValueError: there are no prompts, or one is empty.
        RetryableError, RefusedError: as in ``write_window``.
    """
    lines = [" ".join(prompt.split()) for prompt in prompts]
    if not lines or not all(lines):
        raise ValueError("a window needs at least one prompt, and none that is empty")
    numbered = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    wish = instruction.strip() or "(none)"
    question = f"These are the {len(lines)} prompts:\n{numbered}\n\nInstruction:\n{wish}"
    return _asked(enhancer, Operation.REWRITE_WINDOW, question, f"{numbered}\n{wish}", len(lines), temperature)


def _asked(
    enhancer: PromptEnhancer, operation: Operation, question: str, original: str, count: int, temperature: float | None
) -> list[str]:
    answer = enhancer.ask(operation, question, seed_prompt=original, temperature=temperature, count=count)
    return answer.content.split("\n")
