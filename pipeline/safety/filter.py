"""Asks a fastText classifier whether a prompt is unsafe."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.safety.classifier_process import ClassifierProcess, Label
from pipeline.safety.model_file import ModelFile, read_model_file
from pipeline.safety.result import ClassifierError, SafetyDecision, SafetyResult
from pipeline.safety.written_forms import LABEL_PREFIX, written_forms

UNSAFE_LABEL = "unsafe"

_FileIdentity = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Loaded:
    identity: _FileIdentity
    facts: ModelFile
    process: ClassifierProcess


class PromptSafetyFilter:
    """Screens prompts with a classifier that a child process holds.

    The child is started at the first prompt, and replaced when it died or its file changed. A text is blocked only if
    the best label of one of its forms (``written_forms``) is ``unsafe`` with a score of at least ``block_threshold``
    (0 to 1). It may be used by any thread; they take turns.
    """

    def __init__(self, classifier_path: Path, *, enabled: bool = True, block_threshold: float = 0.5) -> None:
        self.classifier_path = classifier_path
        self.enabled = enabled
        self.block_threshold = block_threshold
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    def screen(self, prompt: str) -> SafetyResult:
        """The worst verdict on the forms of one text.

        A classifier that cannot be used gives ``unavailable`` and does not raise.
        """
        if not self.enabled:
            return SafetyResult(prompt, SafetyDecision.ALLOW, reason="screening is switched off")
        try:
            with self._lock:
                loaded = self._ready()
                forms = written_forms(prompt, lower_case=loaded.facts.lower_case)
                labels = loaded.process.predict(forms)
        except ClassifierError as error:
            return SafetyResult(prompt, SafetyDecision.UNAVAILABLE, reason=str(error))
        return self._verdict(prompt, labels, loaded.facts.sha256)

    def close(self) -> None:
        """End the child; the next prompt starts another."""
        with self._lock:
            self._drop()

    def _verdict(self, prompt: str, labels: Sequence[Label | None], version: str) -> SafetyResult:
        scored = [label for label in labels if label is not None]
        if not scored:
            reason = "the classifier knows none of its words"
            return SafetyResult(prompt, SafetyDecision.ALLOW, reason=reason, model_version=version)
        unsafe = [(score, name) for name, score in scored if name == LABEL_PREFIX + UNSAFE_LABEL]
        best = max(unsafe) if unsafe else (scored[0][1], scored[0][0])
        label, score = best[1].removeprefix(LABEL_PREFIX), min(best[0], 1.0)  # rounding may pass 1
        blocked = label == UNSAFE_LABEL and score >= self.block_threshold
        decision = SafetyDecision.BLOCK if blocked else SafetyDecision.ALLOW
        reason = f"{label} with score {score:.3f}, threshold {self.block_threshold:g}"
        if unsafe and labels[0] != (best[1], best[0]):
            reason += ", in a form without hidden characters or marks"
        return SafetyResult(prompt, decision, score, label, reason, version)

    def _ready(self) -> _Loaded:
        """The classifier in a living child. Raises ClassifierError."""
        identity = self._identity()
        if self._loaded is None or self._loaded.identity != identity or not self._loaded.process.usable:
            self._drop()
            facts = read_model_file(self.classifier_path)
            if UNSAFE_LABEL not in facts.labels:
                raise ClassifierError(
                    f"{self.classifier_path} has the labels {', '.join(facts.labels) or '(none)'}, "
                    f"but not {UNSAFE_LABEL!r}: it cannot block a prompt"
                )
            process = ClassifierProcess(self.classifier_path)
            if self._identity() != identity:
                process.close()
                raise ClassifierError(f"{self.classifier_path} was changed while it was loaded")
            self._loaded = _Loaded(identity, facts, process)
        return self._loaded

    def _drop(self) -> None:
        if self._loaded is not None:
            self._loaded.process.close()
            self._loaded = None

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
