"""What models really answer: each is a clean prompt or a reason, through a real server and the real client."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.enhancers.chat_answer import UnusableAnswerError
from pipeline.enhancers.cleaning import MAX_PROMPT_CHARACTERS, alternatives_in, prompt_in
from pipeline.enhancers.enhancer import PromptEnhancer
from pipeline.enhancers.rewrite import RewriteOptions, build_rewrite
from pipeline.errors import RetryableError
from tests.unit.pipeline.enhancers.llm_server import LLMServer, answers, llm_server, provider_at, says

FOX = "A majestic red fox strides through snow."


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[LLMServer, PromptEnhancer]]:
    with llm_server() as server, provider_at(server.base_url, key_required=False) as provider:
        yield server, PromptEnhancer([provider])


CLEAN = [
    # what a model thought
    f"<think>\nThe user wants a fox.\n</think>\n\n{FOX}",
    f"<THINK >hm</ THINK>{FOX}",
    f"<thinking>a</thinking>{FOX}<reasoning>b</reasoning>",
    f"<think>a <think>b</think> c</think>{FOX}",
    f"The user wants a fox, so I write of one.</think>{FOX}",
    f"<think></think>\n<think>again</think>{FOX}",
    f"<seed:think>hm</seed:think>{FOX}",
    f"[THINK]hm[/THINK]{FOX}",
    f"◁think▷hm◁/think▷{FOX}",
    f"<|START_THINKING|>hm<|END_THINKING|>{FOX}",
    f"<think>hm</think><answer>{FOX}</answer>",
    f"<|channel|>analysis<|message|>A fox.<|end|><|start|>assistant<|channel|>final<|message|>{FOX}<|return|>",
    f"<|channel|>final<|message|>{FOX}",
    f"<|start|>assistant<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>{FOX}",
    f"analysisThe user wants a fox.assistantfinal{FOX}",
    # marks of chat templates
    f"{FOX}<|im_end|>",
    f"<|im_start|>assistant\n{FOX}</s>",
    f"<|start_header_id|>assistant<|end_header_id|>\n\n{FOX}<|eot_id|>",
    # fences, quotes, Markdown, JSON
    f"```\n{FOX}\n```",
    f"```text\n{FOX}\n```\n",
    f"~~~\n{FOX}\n~~~",
    f"```{FOX}```",
    f"`{FOX}`",
    f'"{FOX}"',
    f"“{FOX}”",
    f"«{FOX}»",
    f"„{FOX}“",
    f"「{FOX}」",
    f"'{FOX}'",
    f"# Enhanced prompt\n\n{FOX}",
    f"### The Fox ###\n{FOX}",
    f"**{FOX}**",
    "A **majestic** red *fox* strides through snow.",
    f"> {FOX}",
    f"---\n{FOX}\n---",
    f"- {FOX}",
    f"1. {FOX}",
    f'{{"prompt": "{FOX}"}}',
    f'```json\n{{"reasoning": "a fox", "enhanced_prompt": "{FOX}"}}\n```',
    f'["{FOX}"]',
    f'[{{"type": "text", "text": "{FOX}"}}]',
    # what is said before and after
    f"Here is the enhanced prompt:\n\n**{FOX}**",
    f"Sure! Here's your enhanced prompt:\n{FOX}",
    f"Sure, here’s a more detailed version of your prompt:\n\n“{FOX}”",
    f"Certainly! {FOX}",
    f"Okay.\n\n{FOX}",
    f"Enhanced Prompt: {FOX}",
    f"**Prompt:** {FOX}",
    f"Prompt (enhanced): {FOX}",
    f"Here you go!\n{FOX}",
    f"I've expanded your idea into a cinematic description:\n\n{FOX}",
    f"Hier ist der verbesserte Prompt:\n{FOX}",
    f"Voici le prompt amélioré :\n{FOX}",
    f"Aquí tienes la descripción mejorada:\n{FOX}",
    f"好的，以下是优化后的提示词：\n{FOX}",
    f"{FOX}\n\nLet me know if you'd like any changes!",
    f"{FOX} Would you like a darker version?",
    f"{FOX}\n\n**Note:** I added the snow.\nIt suits the fox.",
    f"{FOX}\n\n(98 words)",
    f"Here is the prompt:\n```\n{FOX}\n```\nFeel free to adjust it.",
    # what a text may hold and must not
    f"\ufeff {FOX}\0\r\n",
    "A majestic\x07 red fox\u2028strides through\tsnow.",
]


@pytest.mark.parametrize("answer", CLEAN)
def test_what_surrounds_a_prompt_is_taken_off(line: tuple[LLMServer, PromptEnhancer], answer: str) -> None:
    server, enhancer = line
    server.answer = says(answer)

    assert enhancer.enhance("a fox").content == FOX
    assert enhancer.auto_extend("a fox").content == FOX
    assert build_rewrite(enhancer, "a fox", RewriteOptions(count=1)).alternatives == (FOX,)


KEPT = [
    "A fox says “come” to a wolf, who says “no”.",
    '"Stop" reads the sign, and the fox does. "Go" says the wolf',
    "[Wide shot] A fox runs.",
    "I walk through a forest at dawn, my hands pushing the ferns aside.",
    "I can't help but stare as a fox looks back at me.",
    "A here-and-now portrait: a fox, 3:2 frame, f/1.8, 50 mm.",
    "Sure-footed goats climb a cliff. Okay signs hang from a wire.",
    "The user interface of a ship glows; a sorry little robot polishes it.",
    "Here is where the river bends: a heron waits.",
    "Text on a wall reads A < B & C > D, and a 5*3*2 grid glows.",
    "Analysis of light: beams cross a dusty attic.",
    "Thinking hard, an old chess player leans over the board.",
    "一只红狐狸在雪地里行走。",
    "Ein roter Fuchs läuft durch den Schnee. Leider schmilzt er.",
    "Désolé et vaste, le plateau s'étend sous la pluie.",
    "👩‍🚀 שלום \u200f ok",
    "Human figures walk through mist. I tried the door. This text glows red.",
    "Model T cars drive by. Error signs flicker. Yes, says the sign.",
    "Absolutely still water at dawn. Camera: slow pan over the reeds.",
    "I'm here in the forest at dawn; I won't turn back, and I kept walking.",
    "Thinks of rain: a sad sculpture on a wall. 40 words carved on stone lie below. #10 is on a jersey.",
    "An AI robot in a harmful storm; a note: handwritten, pinned to the door.",
]


@pytest.mark.parametrize("answer", KEPT)
def test_what_only_looks_like_a_wrapping_stays(answer: str) -> None:
    assert prompt_in(answer) == answer
    assert alternatives_in(answer) == [answer]


REFUSED_FOR_ONE = [
    f"1. {FOX}\n2. A wolf howls.",
    f"- {FOX}\n- A wolf howls.",
    f"a) {FOX}\nb) A wolf howls.",
    f"I. {FOX}\nII. A wolf howls.",
    f"1. {FOX} 2. A wolf howls.",
    f"Option 1: {FOX}\nOption 2: A wolf howls.",
    f"**Version A:** {FOX}",
    f"{FOX}\nOR\nA wolf howls.",
    f'["{FOX}", "A wolf howls."]',
    f"Subject: a fox\nSetting: snow\nCamera: {FOX}",
    "Вот, пожалуйста, мой текст:\nлиса бежит",
    f"## Scene\n{FOX}\n## Camera\nIt pans.",
]
REFUSED = [
    "<think>The user wants a fox",
    "<thinking>The user wants a fox",
    f"{FOX} <reasoning>and now",
    "<|channel|>analysis<|message|>The user wants a fox",
    "<|channel|>commentary<|message|>Hm.<|end|>",
    "analysisThe user wants a fox, so",
    "&lt;think&gt;A fox&lt;/think&gt;",
    "I won't be able to help with that.",
    "I'd rather not.",
    "I'm going to have to pass on this one.",
    "I am programmed to be a harmless AI assistant.",
    "That's not something I can help with.",
    "Nope, can't do that.",
    "Unable to comply.",
    "My guidelines prevent me from this.",
    "Content policy violation.",
    "Error: rate limit exceeded",
    "Internal Server Error",
    "Let's talk about something else.",
    "Please consult our policy.",
    "Desculpa, não consigo ajudar com isso.",
    "Jag kan tyvärr inte hjälpa till.",
    "Beklager, jeg kan ikke.",
    "Maaf, saya tidak bisa.",
    "Bu konuda yardımcı olamam.",
    "ขออภัย",
    "이 요청은 도와드릴 수 없습니다",
    f"Love it! {FOX}",
    f"What a lovely idea! {FOX}",
    f"As requested: {FOX}",
    f"Absolutely — {FOX}",
    f"Thought for 5 seconds\n\n{FOX}",
    f"Assistant: {FOX}",
    f"Prompt\n{FOX}",
    f"{FOX}\n\nThis version adds cinematic detail.",
    f"{FOX}\n\nI kept the subject.",
    f"{FOX}\n\nAnything else?",
    f"{FOX} (This is 40 words.)",
    f"{FOX}\n\nNegative prompt: blurry",
    f"{FOX} --ar 16:9 --v 6",
    f"{FOX}\n\n#fox #snow",
    f"{FOX}\nUser: a wolf",
    f"&quot;{FOX}&quot;",
    f"\\boxed{{{FOX}}}",
    f'prompt = "{FOX}"',
    f'enhance("{FOX}")',
    f'""{FOX}""',
    f"[TOOL_CALLS] {FOX}",
    f"{FOX}【4†source】",
    f"{FOX}\ufffd",
    "▁A▁majestic▁fox",
    "A fox runs. " * 100,
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I can’t assist with that request.",
    "I cannot create content like this.",
    "I can't.",
    "Sorry, that is not possible.",
    "As an AI language model, I do not make prompts.",
    "Unfortunately, I am unable to describe it.",
    "I must respectfully decline.",
    "My apologies, but no.",
    "Your request violates our policy.",
    "Es tut mir leid, dabei kann ich nicht helfen.",
    "Je suis désolé, je ne peux pas.",
    "Lo siento, no puedo ayudar con eso.",
    "К сожалению, я не могу помочь.",
    "很抱歉，我无法满足您的要求。",
    "申し訳ありませんが、お手伝いできません。",
    "죄송합니다. 도와드릴 수 없습니다.",
    f"{FOX} I'm sorry, but I can't continue.",
    "**I can't help with that.**",
    '{"prompt": "I\'m sorry, but I can\'t help with that."}',
    "Could you clarify what the fox does?",
    "Please provide the prompt that I should enhance.",
    "We need to produce a paragraph about a fox.",
    "Okay, so the user wants a fox.",
    "Let me think about this fox.",
    "Your prompt needs more light.",
    "Sure!",
    "Here is the enhanced prompt:",
    "...",
    "—",
    "🦊",
    "42",
    "N/A",
    "null",
    "{}",
    "[]",
    '""',
    "```\n```",
    f"```\n{FOX}",
    f"```\n{FOX}\n```\n```\nA wolf.\n```",
    f"Some words.\n```\n{FOX}\n```",
    '{"prompt": "A fox',
    '{"error": "no luck"}',
    f'{{"prompt": "{FOX}", "style": "noir"}}',
    "[1, 2]",
    "{'prompt': 'A fox'}",
    "[Insert a prompt about a fox]",
    "A fox in {{place}}.",
    "<b>A fox</b> in <i>snow</i>.",
    f"{FOX}<|im_end|>\n<|im_start|>user\nAnother one",
    "See [this](http://example.com/fox).",
    "x" * (MAX_PROMPT_CHARACTERS + 1),
    "a fox " * 20_000,
]


@pytest.mark.parametrize("answer", REFUSED)
def test_what_is_not_certainly_a_prompt_is_refused(line: tuple[LLMServer, PromptEnhancer], answer: str) -> None:
    server, enhancer = line
    server.answer = says(answer)
    for ask in (enhancer.enhance, enhancer.auto_extend, lambda prompt: build_rewrite(enhancer, prompt)):
        with pytest.raises(RetryableError) as caught:
            ask("a fox")
        assert caught.value.code == "enhance_unavailable"
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("answer", REFUSED_FOR_ONE)
def test_several_prompts_are_refused_where_one_was_asked_for(answer: str) -> None:
    with pytest.raises(UnusableAnswerError):
        prompt_in(answer)


def test_several_prompts_are_what_a_rewrite_asks_for() -> None:
    listed = ["A fox.", "A wolf.", "A bear."]
    for answer in (
        "Here are 3 alternatives:\n\n1. A fox.\n2. **A wolf.**\n3. A bear.",
        '["A fox.", "A wolf.", "A bear."]',
        "<think>three</think>- A fox.\n- A wolf.\n- A bear.\n\nLet me know!",
        "Option 1: A fox.\n\nOption 2: A wolf.\n---\nOption 3: “A bear.”",
    ):
        assert alternatives_in(answer) == listed


def _choice(message: Any, finish_reason: object = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish_reason, "message": message}], **more}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (_choice({"content": FOX}, "length"), "cut at"),
        (_choice({"content": "", "reasoning_content": "A fox …"}, "length"), "cut at"),
        (_choice({"content": None, "reasoning": "A fox …"}, "MAX_TOKENS"), "cut at"),
        (_choice({"content": FOX}, None, usage={"completion_tokens": 100_000}), "cut at"),
        (_choice({"content": FOX}, "content_filter"), "content_filter"),
        (_choice({"content": FOX}, "tool_calls"), "tool_calls"),
        (_choice({"content": FOX}, {"type": "stop"}), "finish_reason"),
        (_choice({"content": FOX, "tool_calls": [{"function": {"name": "f"}}]}), "tool"),
        (_choice({"content": None, "refusal": "I can't help with that."}), "refused"),
        (_choice({"refusal": "No."}), "refused"),
        (_choice({"content": [{"type": "refusal", "refusal": "No."}]}), "refused"),
        (_choice({"content": None, "reasoning_content": "A fox …"}), "only thought"),
        (_choice({"content": {"prompt": FOX}}), "unknown form"),
        (_choice({"content": 7}), "unknown form"),
        (_choice({"content": [{"type": "image_url", "image_url": "x"}]}), "unknown form"),
        (_choice({"content": []}), "empty"),
        (_choice(None), "choices[0]"),
        ({"error": {"message": "model overloaded"}}, "model overloaded"),
        ({"error": "overloaded", "choices": []}, "overloaded"),
        ({"choices": [7]}, "choices[0]"),
        ({"choices": {"0": 1}}, "choices[0]"),
    ],
)
def test_answers_that_are_no_whole_text(line: tuple[LLMServer, PromptEnhancer], body: object, reason: str) -> None:
    server, enhancer = line
    server.answer = answers(200, body)

    with pytest.raises(RetryableError) as caught:
        enhancer.enhance("a fox")
    assert caught.value.code == "enhance_unavailable"
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        _choice({"content": [{"type": "text", "text": FOX}]}),
        _choice({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": FOX}]}),
        _choice({"content": [{"type": "text", "text": FOX[:9]}, {"type": "output_text", "text": FOX[9:]}]}),
        _choice({"content": FOX, "reasoning_content": "A fox …", "refusal": None, "tool_calls": []}),
        _choice({"content": FOX}, "eos"),
        _choice({"content": FOX}, None, usage={"completion_tokens": 9}),
        _choice({"content": FOX}, "STOP", error=None),
    ],
)
def test_forms_in_which_servers_answer_a_text(line: tuple[LLMServer, PromptEnhancer], body: object) -> None:
    server, enhancer = line
    server.answer = answers(200, body)

    assert enhancer.enhance("a fox").content == FOX


def test_the_next_provider_is_asked_where_the_first_refuses_in_words(server: LLMServer) -> None:
    with llm_server() as first, provider_at(first.base_url, "a") as a, provider_at(server.base_url, "b") as b:
        first.answer = says("I'm sorry, but I can't help with that.")
        response = PromptEnhancer([a, b]).enhance("a fox")

    assert (response.provider, response.fallback_used) == ("b", True)


_PIECES = [
    *(
        "<think>",
        "</think>",
        "<|channel|>",
        "<|message|>",
        "final",
        "analysis",
        "assistant",
        "```",
        "~~~",
        "\n",
        " ",
        '"',
    ),
    *(
        "“",
        "”",
        "{",
        "}",
        "[",
        "]",
        "prompt",
        ":",
        "#",
        "*",
        "**",
        "- ",
        "1. ",
        "Here is",
        "Sure!",
        "I'm sorry",
        "</s>",
    ),
    *("<", ">", "|", "\0", "\ud800", "\u2028", "'", "`", "A fox.", "Note:", "Let me know", "(", ")", "_", "..."),
]


def test_any_mixture_of_marks_is_one_line_of_words_or_refused() -> None:
    chance = random.Random(20)
    for _ in range(3_000):
        answer = "".join(chance.choices(_PIECES, k=chance.randint(1, 14)))
        try:
            prompt = prompt_in(answer)
        except UnusableAnswerError:
            continue
        assert prompt == " ".join(prompt.split()), answer
        assert any(mark.isalpha() for mark in prompt), answer
        assert not any(mark in prompt for mark in ("<think", "</think", "<|", "```", "\0")), answer
        assert prompt_in(prompt) == prompt, answer


@pytest.mark.parametrize(
    "piece",
    [*_PIECES, "< ", "<think ", "** a", "__a ", "\n- ", "``` ", "```\n", "{'a':", "[[", "Option 1: ", "I can't "],
)
def test_the_time_for_a_long_answer_grows_with_its_length(piece: str) -> None:
    def cpu_seconds(length: int) -> float:
        started = time.process_time()
        for answer in (piece * (length // len(piece)), f"A {piece * (length // len(piece))} z"):
            with contextlib.suppress(UnusableAnswerError):
                prompt_in(answer)
        return time.process_time() - started

    short = cpu_seconds(2_000)
    assert cpu_seconds(30_000) < 60 * short + 0.5  # 15 times where it is linear, 225 times where it is quadratic
