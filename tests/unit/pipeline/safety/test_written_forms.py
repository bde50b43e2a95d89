"""What hides a word from a classifier hides it no longer: a table of tricks, and any mixture of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.safety.filter import PromptSafetyFilter
from pipeline.safety.model_file import read_model_file
from pipeline.safety.result import SafetyDecision
from pipeline.safety.written_forms import written_forms
from tests.unit.pipeline.safety.fasttext_file import write_classifier, write_safety_classifier


@pytest.fixture(scope="module")
def safety_filter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PromptSafetyFilter]:
    result = PromptSafetyFilter(write_safety_classifier(tmp_path_factory.mktemp("classifier") / "safety.bin"))
    yield result
    result.close()


@pytest.mark.parametrize(
    "prompt",
    [
        *("go\u200bre", "go\u200cre", "go\u2060re", "\ufeffgore", "go\u00adre", "g\u202eore", "go\u034fre"),
        *("go\u3164re", "go\ufe0fre", "go\u180ere", "go\U000e0061re", "go\ufffere", "go\ue000re", "go\ufff9re"),
        *("go\x01re", "go\x7fre", "go\x9fre", "go\x00re", "kitten\u00a0gore", "kitten\u3000gore", "kitten\x1fgore"),
        *("kitten\u200bgore gore", "kitten\u2800gore gore", "kitten\u115fgore gore", "kitten\x0bgore gore"),
        *("ｇｏｒｅ", "𝐠𝐨𝐫𝐞", "ⓖⓞⓡⓔ", "🅖🅞🅡🅔", "🇬🇴🇷🇪", "ɢᴏʀᴇ", "gᵒre", "⒢⒪⒭⒠", "🄖🄞🄡🄔", "\u0261ore"),
        *("g\u0585re", "g\u2c9fre", "g𝛐re", "g\u0275re", "g\u0254re", "gor\u01dd", "gor\u0259", "\u0581ore"),
        *("g\u0336o\u0336r\u0336e\u0336", "ǵóŕé", "gøre", "g\u20e3ore", "gor\u0435", "g\u03bfre"),
        *("kitten,gore", "(gore:1.3)", "gore!!!", "_gore_", "kitten|gore", "[[gore]]", "gore—"),
        *("g&#111;re", "g&#x6f;re", "go&shy;re", "&amp;#103;ore", "g&amp;amp;#111;re", "kitten&nbsp;gore"),
        *("g&#0000000000111;re", f"gore &#{'9' * 5000};", f"g&#x{'0' * 5000}6f;re", f"&amp;#{'9' * 5000};gore"),
        *("<\u200b/s> gore gore", "＜/s＞ gore gore", "＿＿label＿＿gore", "kitten ＜/s＞gore gore", "x\u200bgo\x02re"),
        *("GORE", "Gore", "ＧＯＲＥ", "G\u200bORE"),
    ],
)
def test_a_hidden_word_is_seen(safety_filter: PromptSafetyFilter, prompt: str) -> None:
    result = safety_filter.screen(prompt)

    assert result.decision is SafetyDecision.BLOCK, written_forms(prompt, lower_case=True)
    assert result.prompt == prompt


@pytest.mark.parametrize(
    "prompt",
    [
        "kitten",
        "Ein schönes Kätzchen 🐈‍⬛",
        "кот играет",
        "हिन्दी में बिल्ली",
        "子猫が遊ぶ",
        "قطة تلعب",
        "kitten &amp; dog",
        "",
        "\u200b",
    ],
)
def test_ordinary_prompts_of_any_script_are_allowed(safety_filter: PromptSafetyFilter, prompt: str) -> None:
    assert safety_filter.screen(prompt).decision is SafetyDecision.ALLOW


_UNSEEN = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf"]
_CONTROLS = [chr(code) for code in (*range(1, 9), *range(14, 28), 127)]
_DRESSES = [
    lambda letter: letter,
    lambda letter: chr(ord(letter) - ord("a") + 0xFF41),
    lambda letter: chr(ord(letter) - ord("a") + 0x1D41A),
    lambda letter: chr(ord(letter) - ord("a") + 0x24D0),
    lambda letter: f"&#{ord(letter)};",
    lambda letter: letter + "\u0336",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    dresses=st.lists(st.sampled_from(_DRESSES), min_size=4, max_size=4),
    joints=st.lists(st.text(st.sampled_from([*_UNSEEN, *_CONTROLS]), max_size=3), min_size=5, max_size=5),
    around=st.tuples(st.sampled_from(["", "a ", "fox\u3000", "x\n"]), st.sampled_from(["", " a", "\u00a0fox", "\tx"])),
)
def test_any_mixture_of_tricks_is_seen(
    safety_filter: PromptSafetyFilter, dresses: list[Callable[[str], str]], joints: list[str], around: tuple[str, str]
) -> None:
    letters = [dress(letter) + joint for dress, letter, joint in zip(dresses, "gore", joints, strict=False)]
    prompt = around[0] + joints[4] + "".join(letters) + around[1]

    assert safety_filter.screen(prompt).decision is SafetyDecision.BLOCK


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.booleans())
def test_forms_are_lines_that_the_library_can_read_and_the_first_is_the_prompt(prompt: str, lower_case: bool) -> None:
    forms = written_forms(prompt, lower_case=lower_case)

    assert forms[0].split() == forms[0].split(" ") or forms[0] == ""
    for form in forms:
        assert "\n" not in form
        assert "</s>" not in form
        assert "__label__" not in form
    assert len(set(forms)) == len(forms)


@settings(max_examples=50, deadline=None)
@given(st.from_regex(r"[ -%'-~]{1,80}", fullmatch=True))
def test_an_ordinary_prompt_has_two_forms_at_most(prompt: str) -> None:
    """As it is, and, where it has punctuation, its words alone."""
    assert len(written_forms(prompt, lower_case=False)) <= 2


@pytest.mark.parametrize("words", [30, 60, 120, 300, 3000])
@pytest.mark.parametrize("unsafe", ["gore", "g\u200bore", "ＧＯＲＥ"])
def test_words_that_no_encoder_reads_outweigh_none_that_it_reads(
    safety_filter: PromptSafetyFilter, words: int, unsafe: str
) -> None:
    """A model's encoder cuts the prompt: what is generated is unsafe, however long and harmless the rest is."""
    prompt = " ".join([unsafe] * words + ["kitten"] * 10 * words)
    assert len(prompt) < 500_000

    assert safety_filter.screen(prompt).decision is SafetyDecision.BLOCK
    assert safety_filter.screen(" ".join(["kitten"] * 11 * words)).decision is SafetyDecision.ALLOW


def test_case_is_the_classifiers_own(tmp_path: Path) -> None:
    """One that knows words with capitals was trained on text as it is written, and is asked so."""
    lower = write_safety_classifier(tmp_path / "lower.bin")
    mixed = write_classifier(tmp_path / "mixed.bin", {"gore": (0.0, 4.0), "Paris": (4.0, 0.0)})

    assert (read_model_file(lower).lower_case, read_model_file(mixed).lower_case) == (True, False)
    assert PromptSafetyFilter(lower).screen("GORE").decision is SafetyDecision.BLOCK
    assert PromptSafetyFilter(mixed).screen("GORE").decision is SafetyDecision.ALLOW


def test_the_reason_says_that_a_form_decided(safety_filter: PromptSafetyFilter) -> None:
    assert "in a form without hidden characters" in safety_filter.screen("go\u200bre").reason
    assert "in a form" not in safety_filter.screen("gore").reason


@pytest.mark.parametrize(
    "prompt",
    ["a" + "\u0315\u0300\u05ae\u0323" * 12_500, "\ufdfa" * 50_000, "\x9f\u00e9" * 25_000, "&" * 50_000],
    ids=["marks that Unicode sorts", "characters that expand", "controls", "entities"],
)
def test_the_longest_prompt_has_few_forms_of_bounded_length(prompt: str) -> None:
    """Unbounded, the first takes half a minute."""
    forms = written_forms(prompt, lower_case=True)

    assert len(forms) <= 200
    assert sum(map(len, forms)) <= 4_000_000
    assert max(map(len, forms)) <= 200_000
    assert max(_longest_run_of_marks(form) for form in forms[1:] or ("",)) <= 31


def _longest_run_of_marks(text: str) -> int:
    longest = run = 0
    for char in text:
        run = run + 1 if unicodedata.combining(char) else 0
        longest = max(longest, run)
    return longest
