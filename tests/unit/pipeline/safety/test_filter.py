"""The filter with the real fastText library and real model files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.safety.filter import PromptSafetyFilter, first_blocked
from pipeline.safety.result import SafetyDecision
from tests.unit.pipeline.safety.fasttext_file import SKIP_GRAM, write_classifier, write_safety_classifier


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_safety_classifier(tmp_path / "safety.bin")


def test_score_is_the_librarys_softmax(classifier: Path) -> None:
    result = PromptSafetyFilter(classifier).screen("gore")

    assert result.decision is SafetyDecision.BLOCK
    assert result.label == "unsafe"
    assert result.score == pytest.approx(1 / (1 + math.exp(-4)), abs=1e-3)
    assert result.model_version == hashlib.sha256(classifier.read_bytes()).hexdigest()
    assert result.prompt == "gore"


def test_safe_label_with_a_high_score_is_allowed(classifier: Path) -> None:
    result = PromptSafetyFilter(classifier).screen("kitten")

    assert (result.decision, result.label) == (SafetyDecision.ALLOW, "safe")
    assert result.score is not None
    assert result.score > 0.9


@pytest.mark.parametrize(
    ("threshold", "decision"),
    [
        (0.0, SafetyDecision.BLOCK),
        (0.5, SafetyDecision.BLOCK),
        (0.9, SafetyDecision.ALLOW),
        (1.0, SafetyDecision.ALLOW),
    ],
)
def test_threshold_decides_for_an_unsafe_label(classifier: Path, threshold: float, decision: SafetyDecision) -> None:
    result = PromptSafetyFilter(classifier, block_threshold=threshold).screen("maybe")

    assert result.label == "unsafe"
    assert result.decision is decision


@pytest.mark.parametrize(
    "prompt",
    [
        "kitten\ngore gore",
        "kitten\r\ngore gore",
        "kitten\u2028gore gore",
        "kitten </s> gore gore",
        "kitten __label__safe gore gore",
        "kitten __label__gore gore",
        "kitten <</s>/s> gore gore",
        "kitten\0gore gore",
        "gore \ud800",
    ],
)
def test_nothing_in_a_prompt_hides_the_words_after_it(classifier: Path, prompt: str) -> None:
    assert PromptSafetyFilter(classifier).screen(prompt).decision is SafetyDecision.BLOCK


@pytest.mark.parametrize("prompt", ["", "   ", "🦊🦊", "zyx"])
def test_a_prompt_of_unknown_words_is_allowed_and_says_so(classifier: Path, prompt: str) -> None:
    result = PromptSafetyFilter(classifier).screen(prompt)

    assert (result.decision, result.label, result.score) == (SafetyDecision.ALLOW, None, None)
    assert "knows none of its words" in result.reason


def test_disabled_filter_needs_no_file(tmp_path: Path) -> None:
    result = PromptSafetyFilter(tmp_path / "none.bin", enabled=False).screen("gore")

    assert result.decision is SafetyDecision.ALLOW


def _missing(path: Path) -> None:
    assert not path.exists()


def _without_unsafe(path: Path) -> None:
    write_classifier(path, {"a": (1.0, 0.0)}, ("news", "sport"))


def _word_vectors(path: Path) -> None:
    write_classifier(path, {"a": (1.0, 0.0)}, model=SKIP_GRAM)


def _not_a_number(path: Path) -> None:
    write_classifier(path, {"gore": (math.nan, math.nan)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "cannot be read: No such file"),
        (Path.mkdir, "cannot be read: Is a directory"),
        (Path.touch, "is empty"),
        (lambda path: path.write_bytes(b"hello world, this is no model"), "not a fastText model"),
        (_without_unsafe, "has the labels news, sport"),
        (_word_vectors, "without labels"),
        (_not_a_number, "NaN"),
    ],
)
def test_unusable_file_is_unavailable_with_its_reason(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "bad.bin"
    make(path)

    result = PromptSafetyFilter(path).screen("gore")

    assert result.decision is SafetyDecision.UNAVAILABLE
    assert message in result.reason
    assert str(path) in result.reason


def test_a_file_cut_short_anywhere_is_unavailable(classifier: Path, tmp_path: Path) -> None:
    whole = classifier.read_bytes()
    for size in range(len(whole)):
        cut = tmp_path / "cut.bin"
        cut.write_bytes(whole[:size])

        assert PromptSafetyFilter(cut).screen("gore").decision is SafetyDecision.UNAVAILABLE, size


def test_a_mended_file_is_loaded_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "late.bin"
    safety_filter = PromptSafetyFilter(path)
    assert safety_filter.screen("gore").decision is SafetyDecision.UNAVAILABLE

    write_safety_classifier(path)

    assert safety_filter.screen("gore").decision is SafetyDecision.BLOCK


def test_first_blocked_stops_at_the_first(classifier: Path) -> None:
    def prompts() -> object:
        yield "kitten"
        yield "gore first"
        raise AssertionError("the prompts after a blocked one are not looked at")

    result = first_blocked(PromptSafetyFilter(classifier), prompts())  # type: ignore[arg-type]

    assert result is not None
    assert result.prompt == "gore first"
    assert first_blocked(PromptSafetyFilter(classifier), ["kitten", "zyx"]) is None
