"""The screen stage: every verdict under every policy."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import FailureClass, RetryableError
from pipeline.outputs import EnhancedPrompt, ScreenOutput, StageOutputs
from pipeline.safety.result import SafetyDecision, SafetyResult
from pipeline.settings import SafetySettings
from pipeline.stages import screen
from pipeline.states import Stage
from pipeline.work import Outcome, StageResult
from tests.outputs import enhanced
from tests.unit.pipeline.safety.fasttext_file import write_safety_classifier
from tests.unit.pipeline.stages.step_work import make_context, make_work


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_safety_classifier(tmp_path / "safety.bin")


def _run(
    tmp_path: Path, classifier: Path | None, prompt: str, policy: str = "closed", **work: Any
) -> StageResult[ScreenOutput]:
    context = make_context(tmp_path, safety=SafetySettings(classifier=classifier))
    return screen.run(make_work(Stage.SCREEN, prompt, policy=policy, **work), context)


def test_without_a_classifier_the_stage_is_skipped(tmp_path: Path) -> None:
    result = _run(tmp_path, None, "gore")

    assert result.outcome is Outcome.SKIPPED
    assert result.output.as_json() == {"screened": False, "reason": "no classifier is configured"}


def test_a_policy_that_was_asked_for_by_name_is_not_skipped_without_a_classifier(tmp_path: Path) -> None:
    work = make_work(Stage.SCREEN, "kitten", policy="hold")
    work = dataclasses.replace(work, options=work.options.model_copy(update={"must_screen": True}))

    with pytest.raises(RetryableError, match="safety policy hold is required") as caught:
        screen.run(work, make_context(tmp_path, safety=SafetySettings()))

    assert caught.value.code == "classifier_unavailable"


def test_a_text_that_ends_the_classifier_hides_no_other(tmp_path: Path, classifier: Path) -> None:
    """Under the policy open too: what can be screened is, whatever became of the texts before."""
    context = make_context(tmp_path, safety=SafetySettings(classifier=classifier))
    safety_filter = context.models.safety_filter
    assert safety_filter is not None
    screened = safety_filter.screen

    def screen_one(prompt: str) -> SafetyResult:
        if prompt == "kitten":
            return SafetyResult(prompt, SafetyDecision.UNAVAILABLE, reason="it died")
        return screened(prompt)

    safety_filter.screen = screen_one  # type: ignore[method-assign]
    work = make_work(Stage.SCREEN, "kitten", policy="open", outputs=StageOutputs(enhance=enhanced("gore")))

    assert screen.run(work, context).outcome is Outcome.BLOCKED


@pytest.mark.parametrize("policy", ["closed", "open", "hold"])
def test_safe_prompt_goes_on_with_its_verdict(tmp_path: Path, classifier: Path, policy: str) -> None:
    result = _run(tmp_path, classifier, "kitten", policy)

    assert result.outcome is Outcome.DONE
    assert result.output.screened is True
    assert (result.output.decision, result.output.label) == ("allow", "safe")
    assert result.output.score is not None
    assert result.output.score > 0.9
    assert len(result.output.model_version or "") == 64
    assert (result.output.policy, result.output.threshold) == (policy, 0.5)


@pytest.mark.parametrize(
    ("policy", "outcome"), [("closed", Outcome.BLOCKED), ("open", Outcome.BLOCKED), ("hold", Outcome.HELD)]
)
def test_unsafe_prompt_is_stopped_as_the_policy_says(
    tmp_path: Path, classifier: Path, policy: str, outcome: Outcome
) -> None:
    result = _run(tmp_path, classifier, "gore", policy)

    assert result.outcome is outcome
    assert (result.output.decision, result.output.text) == ("block", "original")


def test_the_enhanced_prompt_is_screened_too(tmp_path: Path, classifier: Path) -> None:
    result = _run(tmp_path, classifier, "kitten", outputs=StageOutputs(enhance=enhanced("gore")))

    assert result.outcome is Outcome.BLOCKED
    assert result.output.text == "enhanced"


def test_an_enhancer_cannot_launder_an_unsafe_prompt(tmp_path: Path, classifier: Path) -> None:
    result = _run(tmp_path, classifier, "gore", outputs=StageOutputs(enhance=enhanced("kitten")))

    assert result.outcome is Outcome.BLOCKED
    assert result.output.text == "original"


def test_a_negative_prompt_that_repels_is_not_screened_and_one_that_draws_is(tmp_path: Path, classifier: Path) -> None:
    repels = _run(tmp_path, classifier, "kitten", negative_prompt="gore")
    draws = _run(tmp_path, classifier, "kitten", negative_prompt="gore", guidance_scale=0.5)

    assert repels.outcome is Outcome.DONE
    assert (draws.outcome, draws.output.text) == (Outcome.BLOCKED, "negative prompt")


@pytest.mark.parametrize("policy", ["closed", "hold"])
def test_unusable_classifier_generates_nothing(tmp_path: Path, policy: str) -> None:
    missing = tmp_path / "missing.bin"

    with pytest.raises(RetryableError) as caught:
        _run(tmp_path, missing, "kitten", policy)

    assert caught.value.code == "classifier_unavailable"
    assert caught.value.failure_class is FailureClass.RETRYABLE
    assert str(missing) in str(caught.value)
    assert policy in str(caught.value)


def test_unusable_classifier_under_open_is_recorded_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = _run(tmp_path, tmp_path / "missing.bin", "kitten", "open")

    assert result.outcome is Outcome.DONE
    assert result.output.decision == SafetyDecision.UNAVAILABLE.value
    assert result.output.screened is False
    assert [record.getMessage() for record in caplog.records] == ["prompt not screened"]


def test_a_classifier_mended_between_tries_works(tmp_path: Path) -> None:
    path = tmp_path / "late.bin"
    work, context = make_work(Stage.SCREEN, "kitten"), make_context(tmp_path, safety=SafetySettings(classifier=path))
    with pytest.raises(RetryableError):
        screen.run(work, context)

    write_safety_classifier(path)

    assert screen.run(work, context).outcome is Outcome.DONE


@pytest.mark.parametrize(
    ("work", "text"),
    [
        ({"segments": 2, "segment_prompts": ("kitten", "gore")}, "segment 2"),
        (
            {
                "segments": 3,
                "auto_extend": True,
                "outputs": StageOutputs(
                    enhance=enhanced(
                        "kitten",
                        EnhancedPrompt(prompt="kitten", original="kitten"),
                        EnhancedPrompt(prompt="a kitten plays", original="kitten plays"),
                        EnhancedPrompt(prompt="gore", original="kitten sleeps"),
                    )
                ),
            },
            "segment 3, enhanced",
        ),
    ],
)
def test_every_segments_prompt_is_screened_before_the_first_is_generated(
    tmp_path: Path, classifier: Path, work: dict[str, Any], text: str
) -> None:
    result = _run(tmp_path, classifier, "kitten", **work)

    assert (result.outcome, result.output.text) == (Outcome.BLOCKED, text)
