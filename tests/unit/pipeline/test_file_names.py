"""Names out of files: which may be the name of a file as they are, and how the others are shown."""

from __future__ import annotations

import pytest

from pipeline.files.names import MAX_NAME_BYTES, broken_rule, printable, unusable


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        (".", "dot"),
        ("..", "dot"),
        (".hidden", "dot"),
        ("../../escape-0.mp4", "slash"),
        ("/etc/passwd", "slash"),
        ("a/b", "slash"),
        ("a\\b", "slash"),
        ("..\\..\\escape", "slash"),
        ("a\uff0fb", "slash"),
        ("a\uff3cb", "slash"),
        ("\uff0e\uff0e", "dot"),
        ("\u2025x", "dot"),
        ("a\0b", "invisible character U\\+0000"),
        ("a\nb", "U\\+000A"),
        ("a\x1b[31mb", "U\\+001B"),
        ("a\x7fb", "U\\+007F"),
        ("a\x85b", "U\\+0085"),
        ("gpj\u202e.exe", "U\\+202E"),
        ("a\u2066b", "U\\+2066"),
        ("a\u200bb", "U\\+200B"),
        ("a\ufeffb", "U\\+FEFF"),
        ("a\u2028b", "U\\+2028"),
        ("a\ud800b", "not valid Unicode"),
        ("CON", "device on Windows"),
        ("nul.mp4", "device on Windows"),
        ("Com1.x", "device on Windows"),
        ("x" * (MAX_NAME_BYTES + 1), "256 bytes"),
        ("é" * 128, "256 bytes"),
    ],
)
def test_an_unsafe_name_breaks_a_rule(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        raise ValueError(broken_rule(name) or "it is safe")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a red bird-0.mp4",
            "a person's bike, 1:2-0.mp4",
            "ночь 夜 – é-0.mp4",
            "con artist-0.mp4",
            "x" * MAX_NAME_BYTES,
        ),
        *(
            "family 👨\u200d👩\u200d👧-0.mp4",
            "می\u200cخواهم-0.mp4",
            'what? "quoted" <b> | * %d-0.mp4',
            "trailing dot.-0.mp4",
        ),
        *("-i-0.mp4", "a\u202fb.mp4"),
    ],
)
def test_what_people_write_is_safe(name: str) -> None:
    assert broken_rule(name) is None
    assert printable(name) == name
    assert not unusable(name)


def test_what_cannot_be_seen_is_escaped_for_people() -> None:
    assert printable("a\x1b[31mb\ud800\u202ec\n") == r"a\x1b[31mb\ud800\u202ec\n"
    assert unusable("a\nb")
    assert unusable("a\ud800")
