"""Asks a fastText classifier whether a prompt is unsafe."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.safety.model_file import LABEL_PREFIX, read_model_file
from pipeline.safety.result import ClassifierError, SafetyDecision, SafetyResult

UNSAFE_LABEL = "unsafe"
END_OF_LINE = "</s>"
"""fastText stops reading at this word: left in a prompt, it would hide all that follows it."""

_FileIdentity = tuple[int, int, int]


class PromptSafetyFilter:
    """Screens prompts. The model is loaded at the first prompt, once, and again only when its file changes.

    A text is blocked only if its best label is ``unsafe`` with a score of at least ``block_threshold`` (0 to 1).
    """

    def __init__(self, classifier_path: Path, *, enabled: bool = True, block_threshold: float = 0.5) -> None:
        self.classifier_path = classifier_path
        self.enabled = enabled
        self.block_threshold = block_threshold
        self._lock = threading.Lock()
        self._loaded: tuple[_FileIdentity, Any, str] | None = None

    def screen(self, prompt: str) -> SafetyResult:
        """The verdict on one text; a classifier that cannot be used gives ``unavailable`` and does not raise."""
        if not self.enabled:
            return SafetyResult(prompt, SafetyDecision.ALLOW, reason="screening is switched off")
        try:
            model, version = self._model()
            labels, scores = _predict(model, self.classifier_path, _one_line(prompt))
        except ClassifierError as error:
            return SafetyResult(prompt, SafetyDecision.UNAVAILABLE, reason=str(error))
        if not labels:
            reason = "the classifier knows none of its words"
            return SafetyResult(prompt, SafetyDecision.ALLOW, reason=reason, model_version=version)
        label, score = labels[0].removeprefix(LABEL_PREFIX), min(float(scores[0]), 1.0)  # rounding may pass 1
        blocked = label == UNSAFE_LABEL and score >= self.block_threshold
        decision = SafetyDecision.BLOCK if blocked else SafetyDecision.ALLOW
        reason = f"{label} with score {score:.3f}, threshold {self.block_threshold:g}"
        return SafetyResult(prompt, decision, score, label, reason, version)

    def _model(self) -> tuple[Any, str]:
        with self._lock:
            identity = self._identity()
            if self._loaded is None or self._loaded[0] != identity:
                self._loaded = (identity, *_load(self.classifier_path))
            return self._loaded[1:]

    def _identity(self) -> _FileIdentity:
        try:
            stat = self.classifier_path.stat()
        except OSError as error:
            raise ClassifierError(f"{self.classifier_path} cannot be read: {error.strerror}") from error
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def first_blocked(safety_filter: PromptSafetyFilter, prompts: Iterable[str]) -> SafetyResult | None:
    """The first verdict that blocks, or None; the texts after it are not looked at."""
    results = (safety_filter.screen(prompt) for prompt in prompts)
    return next((result for result in results if result.decision is SafetyDecision.BLOCK), None)


def _load(path: Path) -> tuple[Any, str]:
    facts = read_model_file(path)
    if UNSAFE_LABEL not in facts.labels:
        raise ClassifierError(
            f"{path} has the labels {', '.join(facts.labels) or '(none)'} not {UNSAFE_LABEL!r}: it can block nothing"
        )
    import fasttext  # noqa: PLC0415  (native code, loaded only where prompts are screened)

    try:
        return fasttext.load_model(str(path)), facts.sha256
    except (ValueError, RuntimeError, MemoryError) as error:
        raise ClassifierError(f"{path} cannot be loaded: {error}") from error


def _predict(model: Any, path: Path, line: str) -> tuple[tuple[str, ...], list[float]]:
    try:
        labels, scores = model.predict(line, k=1)
    except (ValueError, RuntimeError) as error:  # fastText raises RuntimeError on NaN weights
        raise ClassifierError(f"{path} gives no score: {error}") from error
    return labels, scores


def _one_line(prompt: str) -> str:
    """What fastText is to read as words. Its own marks are taken apart, so that no prompt can hide words with them."""
    text = " ".join(prompt.replace(END_OF_LINE, " ").replace(LABEL_PREFIX, " ").split())
    return text.encode("utf-8", "replace").decode("utf-8")
