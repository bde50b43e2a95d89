"""The enhance stage with a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RefusedError
from pipeline.settings import EnhanceSettings
from pipeline.stages import enhance
from pipeline.stages.base import Outcome
from pipeline.states import Stage
from tests.unit.pipeline.enhancers.llm_server import llm_server
from tests.unit.pipeline.stages.step_work import make_context, make_work


@pytest.fixture(autouse=True)
def _fresh_connections() -> Iterator[None]:
    yield
    enhance.close()


def test_not_asked_for_is_skipped_even_without_providers(tmp_path: Path) -> None:
    result = enhance.run(make_work(Stage.ENHANCE, "a fox"), make_context(tmp_path))

    assert (result.outcome, result.output) == (Outcome.SKIPPED, {})


def test_result_holds_both_prompts_and_who_wrote_it(tmp_path: Path) -> None:
    with llm_server() as server:
        settings = EnhanceSettings(providers=(f"local={server.base_url}#m",))
        result = enhance.run(make_work(Stage.ENHANCE, "a fox", enhance=True), make_context(tmp_path, enhance=settings))

    assert result.outcome is Outcome.DONE
    assert result.output.pop("latency_ms") >= 0
    assert result.output == {
        "prompt": "a better prompt",
        "provider": "local",
        "model": "m",
        "fallback_used": False,
        "original": "a fox",
    }
    assert (server.requests[0]["body"]["temperature"], server.requests[0]["body"]["max_tokens"]) == (0.7, 256)


@pytest.mark.parametrize("providers", [(), ("nobody",)])
def test_asked_for_but_not_configured_is_refused(tmp_path: Path, providers: tuple[str, ...]) -> None:
    context = make_context(tmp_path, enhance=EnhanceSettings(providers=providers))

    with pytest.raises(RefusedError, match="VGEN_ENHANCE_PROVIDERS") as caught:
        enhance.run(make_work(Stage.ENHANCE, "a fox", enhance=True), context)

    assert caught.value.code == "enhance_not_configured"
