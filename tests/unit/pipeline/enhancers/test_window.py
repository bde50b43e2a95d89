"""The prompts of a whole video are written and changed together, in one answer of a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.enhancers.enhancer import PromptEnhancer
from pipeline.enhancers.system_prompts import Operation, SystemPrompts
from pipeline.enhancers.window import rewrite_window, write_window
from pipeline.errors import RetryableError
from tests.unit.pipeline.enhancers.llm_server import LLMServer, llm_server, provider_at, says

THREE = "1. A door opens.\n2. A moon rises.\n3. A moon rises."
PROMPTS = ["A door opens.", "A moon rises.", "A moon rises."]


@pytest.fixture
def enhancer(server: LLMServer) -> Iterator[PromptEnhancer]:
    with provider_at(server.base_url, "a") as provider:
        yield PromptEnhancer([provider])


def test_a_window_is_one_question_and_one_answer(server: LLMServer, enhancer: PromptEnhancer) -> None:
    server.answer = says(THREE)

    assert rewrite_window(enhancer, ["a door", "a\nmoon", "a ship"], "at night", temperature=1.5) == PROMPTS

    (asked,) = server.requests
    system, question = (message["content"] for message in asked["body"]["messages"])
    assert system == SystemPrompts().get(Operation.REWRITE_WINDOW)
    assert question.index("1. a door") < question.index("2. a moon") < question.index("3. a ship")
    assert "at night" in question
    assert asked["body"]["temperature"] == 1.5


def test_an_idea_becomes_as_many_prompts_as_there_are_segments(server: LLMServer, enhancer: PromptEnhancer) -> None:
    server.answer = says(THREE)

    assert write_window(enhancer, "a tiny robot", 3) == PROMPTS

    (asked,) = server.requests
    system, question = (message["content"] for message in asked["body"]["messages"])
    assert system == SystemPrompts().get(Operation.WRITE_WINDOW)
    assert "3 prompts" in question
    assert "a tiny robot" in question


@pytest.mark.parametrize(
    "answer", ["1. A door opens.\n2. A moon rises.", f"{THREE}\n4. A ship sails.", "A door opens."]
)
def test_another_number_of_prompts_is_no_answer_and_the_next_is_asked(server: LLMServer, answer: str) -> None:
    server.answer = says(answer)
    with llm_server() as other, provider_at(server.base_url, "a") as a, provider_at(other.base_url, "b") as b:
        other.answer = says(THREE)
        assert rewrite_window(PromptEnhancer([a, b]), PROMPTS, "") == PROMPTS
        other.answer = says(answer)
        with pytest.raises(RetryableError, match=r"prompts, and 3 were asked for"):
            rewrite_window(PromptEnhancer([a, b]), PROMPTS, "")


@pytest.mark.parametrize(("prompts", "told"), [([], "at least one prompt"), (["a", " "], "none that is empty")])
def test_a_window_without_a_prompt_is_refused(enhancer: PromptEnhancer, prompts: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rewrite_window(enhancer, prompts, "at night")


@pytest.mark.parametrize(("idea", "count"), [(" ", 3), ("a robot", 0)])
def test_nothing_is_written_of_nothing(enhancer: PromptEnhancer, idea: str, count: int) -> None:
    with pytest.raises(ValueError, match="an idea"):
        write_window(enhancer, idea, count)
