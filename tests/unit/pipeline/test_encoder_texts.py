"""What is screened is what is generated, for any specification and whatever an enhancer answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.encoder_texts import CallTexts, negative_prompt_draws, prompt_for, texts_to_screen
from pipeline.outputs import EnhancedPrompt, EnhanceOutput, StageOutputs
from pipeline.settings import SafetySettings
from pipeline.spec import JobSpec
from pipeline.stages import screen
from pipeline.stages.generate import prompt_of
from pipeline.states import Stage
from pipeline.work import Outcome, StageContext
from tests.unit.pipeline.safety.fasttext_file import write_safety_classifier
from tests.unit.pipeline.stages.step_work import make_context, make_work

_TEXTS = st.text("abcdefg", min_size=1, max_size=5)


@st.composite
def _works(draw: st.DrawFn, texts: st.SearchStrategy[str] = _TEXTS) -> dict[str, Any]:
    """A specification, contradictory ones too, and an enhance stage's output of any of its forms."""
    segments = draw(st.integers(1, 4))
    prompts = draw(st.just(()) | st.lists(texts, min_size=segments, max_size=segments).map(tuple))
    made = tuple(EnhancedPrompt(prompt=draw(texts), original=draw(texts)) for _ in range(segments))
    several = {"prompts": tuple(one.prompt for one in made), "segments": made} if segments > 1 else {}
    enhanced = EnhanceOutput(**made[0].as_json(), **several)
    outputs = StageOutputs(enhance=draw(st.sampled_from([None, enhanced])))
    return {"prompt": draw(texts), "segments": segments, "segment_prompts": prompts, "outputs": outputs}


def test_prompts_that_a_preset_gives_to_every_call_are_screened() -> None:
    spec = make_work(Stage.SCREEN, "kitten", negative_prompt="dog").spec
    call = CallTexts(
        {"prompt_2": ["gore", {"template": "blood"}], "negative_prompt_2": "blur", "strength": 0.8},
        {"negative_prompt": "prompt_3"},
    )

    assert set(texts_to_screen(spec, None, call).values()) == {"kitten", "gore", "blood", "dog"}
    assert set(texts_to_screen(spec, None).values()) == {"kitten"}


def test_the_screen_stage_looks_into_the_preset_of_the_job(folder: Path, context: StageContext) -> None:
    presets = folder / "home" / "presets"
    presets.mkdir(parents=True)
    (presets / "mine.toml").write_text('extends = "idle"\nargument_names = {negative_prompt = "prompt"}\n', "utf-8")
    step = make_work(Stage.SCREEN, "kitten", negative_prompt="gore", preset="mine")

    assert screen.run(step, context).outcome is Outcome.BLOCKED


@settings(max_examples=200, deadline=None)
@given(_works())
def test_every_prompt_that_is_generated_is_screened(work: dict[str, Any]) -> None:
    step = make_work(Stage.SCREEN, **work)

    screened = texts_to_screen(step.spec, step.outputs.enhance).values()

    for segment in range(step.spec.segments):
        assert prompt_for(step.spec, step.outputs.enhance, segment) in screened
    assert step.spec.prompt in screened
    assert set(step.spec.segment_prompts) <= set(screened)
    assert len(set(screened)) == len(screened)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screened")
    write_safety_classifier(path / "safety.bin")
    return path


@pytest.fixture(scope="module")
def context(folder: Path) -> Iterator[StageContext]:
    context = make_context(folder, safety=SafetySettings(classifier=folder / "safety.bin"))
    yield context
    context.models.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[*HealthCheck])
@given(_works(st.sampled_from(["kitten", "kitten", "kitten", "gore"])))
def test_no_stage_generates_what_the_screen_stage_would_block(context: StageContext, work: dict[str, Any]) -> None:
    step = make_work(Stage.SCREEN, **work)

    outcome = screen.run(step, context).outcome

    generated = [
        prompt_of(dataclasses.replace(step, stage=Stage.GENERATE, segment=k)) for k in range(step.spec.segments)
    ]
    if "gore" in generated:
        assert outcome is Outcome.BLOCKED
    if outcome is Outcome.DONE:
        assert set(generated) == {"kitten"}


@pytest.mark.parametrize(
    ("guidance_scale", "guidance_scale_2", "draws"),
    [
        (5.0, None, False),
        (1.0, None, False),
        (0.99, None, True),
        (0.0, None, True),
        (5.0, 0.0, True),
        (5.0, 3.0, False),
    ],
)
def test_a_negative_prompt_is_screened_where_it_draws(
    guidance_scale: float, guidance_scale_2: float | None, draws: bool
) -> None:
    spec: JobSpec = make_work(
        Stage.SCREEN, "kitten", negative_prompt="gore", guidance_scale=guidance_scale, guidance_scale_2=guidance_scale_2
    ).spec

    assert negative_prompt_draws(spec) is draws
    assert ("negative prompt" in texts_to_screen(spec, None)) is draws
