"""The enhance stage with a real server."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RefusedError
from pipeline.outputs import EnhanceOutput
from pipeline.settings import EnhanceSettings
from pipeline.stages import enhance
from pipeline.states import Stage
from pipeline.work import Outcome, StageContext, StageResult, StepWork
from tests.unit.pipeline.enhancers.llm_server import llm_server, says
from tests.unit.pipeline.stages.step_work import make_context, make_work


def run(work: StepWork, context: StageContext) -> StageResult[EnhanceOutput | None]:
    with contextlib.closing(context.models):
        return enhance.run(work, context)


def test_not_asked_for_is_skipped_even_without_providers(tmp_path: Path) -> None:
    result = run(make_work(Stage.ENHANCE, "a fox"), make_context(tmp_path))

    assert (result.outcome, result.output) == (Outcome.SKIPPED, None)


def test_result_holds_both_prompts_and_who_wrote_it(tmp_path: Path) -> None:
    with llm_server() as server:
        settings = EnhanceSettings(providers=(f"local={server.base_url}#m",))
        result = run(make_work(Stage.ENHANCE, "a fox", enhance=True), make_context(tmp_path, enhance=settings))

    assert result.outcome is Outcome.DONE
    assert result.output is not None
    recorded = result.output.as_json()
    assert recorded.pop("latency_ms") >= 0
    assert recorded == {
        "prompt": "a better prompt",
        "provider": "local",
        "model": "m",
        "fallback_used": False,
        "original": "a fox",
    }
    assert (server.requests[0]["body"]["temperature"], server.requests[0]["body"]["max_tokens"]) == (0.7, 2048)


@pytest.mark.parametrize("providers", [(), ("nobody",)])
def test_asked_for_but_not_configured_is_refused(tmp_path: Path, providers: tuple[str, ...]) -> None:
    context = make_context(tmp_path, enhance=EnhanceSettings(providers=providers))

    with pytest.raises(RefusedError, match="VGEN_ENHANCE_PROVIDERS") as caught:
        run(make_work(Stage.ENHANCE, "a fox", enhance=True), context)

    assert caught.value.code == "enhance_not_configured"


def _numbered(handler: Any) -> None:
    """Answers with the number of the question."""
    says(f"answer {len(handler.server.requests)}")(handler)


def test_an_auto_extended_prompt_is_written_from_the_one_before_and_enhanced(tmp_path: Path) -> None:
    # Given a model that numbers its answers, and a clip of three segments that is not to be enhanced itself
    with llm_server() as server:
        server.answer = _numbered
        settings = EnhanceSettings(providers=(f"local={server.base_url}#m",))
        work = make_work(Stage.ENHANCE, "a fox", segments=3, auto_extend=True)

        result = run(work, make_context(tmp_path, enhance=settings))

    # Then each further prompt is extended from the last that was made, and enhanced in turn
    asked = [request["body"]["messages"][1]["content"] for request in server.requests]
    systems = [request["body"]["messages"][0]["content"].split()[0:3] for request in server.requests]
    assert asked == ["a fox", "answer 1", "answer 2", "answer 3"]
    assert systems[0] == systems[2] != systems[1] == systems[3]
    assert result.output is not None
    assert result.output.prompts == ("a fox", "answer 2", "answer 4")
    assert [made.original for made in result.output.segments] == ["a fox", "answer 1", "answer 3"]


def test_every_given_prompt_is_enhanced_and_one_for_all_segments_only_once(tmp_path: Path) -> None:
    with llm_server() as server:
        server.answer = _numbered
        settings = EnhanceSettings(providers=(f"local={server.base_url}#m",))
        context = make_context(tmp_path, enhance=settings)

        listed = run(make_work(Stage.ENHANCE, "a", segments=2, segment_prompts=("a", "b"), enhance=True), context)
        counted = run(make_work(Stage.ENHANCE, "c", segments=3, enhance=True), context)

    assert listed.output is not None
    assert listed.output.prompts == ("answer 1", "answer 2")
    assert counted.output is not None
    assert counted.output.prompts == ("answer 3",) * 3
