"""Options as an editor, a chat or a web page writes them: refused once, with what to write."""

from __future__ import annotations

import pytest

from cli.main import app
from cli.typography import DASHES, refuse_typographic_options
from pipeline.errors import InputError


@pytest.mark.parametrize("dash", DASHES)
def test_an_option_behind_any_typographic_dash_is_refused_with_what_to_write(dash: str) -> None:
    for written in (f"{dash}seed", f"{dash}{dash}seed", f"-{dash}seed", f"{dash}seed=7", f"--num{dash}frames"):
        with pytest.raises(InputError, match=r"write --(seed|num-frames)"):
            refuse_typographic_options(app, ["submit", "file.jsonl", written, "7"])


@pytest.mark.parametrize("words", [["list"], ["models", "list"], ["eval", "run"], ["generate"], ["--debug", "status"]])
def test_every_command_and_option_is_known(words: list[str]) -> None:
    for option in ("json", "help", "debug"):
        with pytest.raises(InputError, match=f"write --{option}"):
            refuse_typographic_options(app, [*words, f"—{option}"])


@pytest.mark.parametrize("value", ["“7”", "”7”", "«7»", "‘7’", "“7", "7”"])
def test_curly_quotation_marks_around_a_value_are_refused(value: str) -> None:
    for words in (["--seed", value], [f"--seed={value}"]):
        with pytest.raises(InputError, match="write --seed '7'"):
            refuse_typographic_options(app, ["submit", "file.jsonl", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "a – b.jsonl", "--seed", "7"],
        ["submit", "–unknown.jsonl"],
        ["submit", "file.jsonl", "--negative-prompt", "—seed"],
        ["submit", "file.jsonl", "--negative-prompt", "“blurry”"],
        ["submit", "--", "—seed"],
        ["state", "import", "file.vgen-state", "“rain” – and wind"],
        ["status", "—"],
    ],
)
def test_dashes_and_quotation_marks_that_are_no_options_stay(words: list[str]) -> None:
    refuse_typographic_options(app, words)
