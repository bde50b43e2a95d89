"""Lines of the values of a YAML document: they are right, and the values those of the reader without lines."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.files.yaml_lines import parse_yaml_with_lines
from pipeline.files.yaml_reader import YamlError, parse_yaml

_TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text("abc :-#'\n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@given(_TREES, st.booleans())
def test_values_are_those_of_the_reader_without_lines(value: object, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow)

    read, lines = parse_yaml_with_lines(text)

    assert read == parse_yaml(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


def test_each_value_has_its_line() -> None:
    text = "a: 1\nb:\n  - x\n  - c: 2\n    d: [3,\n        4]\n"

    _, lines = parse_yaml_with_lines(text)

    assert lines == {
        (): 1,
        **{("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4, ("b", 1, "d"): 5},
        **{("b", 1, "d", 0): 5, ("b", 1, "d", 1): 6},
    }


@pytest.mark.parametrize("text", ["a: &x 1", "a: *x", "a: 1\na: 2", "a: 1\n---\nb: 2", "a: [" * 40, "? [1]\n: 2"])
def test_what_the_reader_refuses_is_refused(text: str) -> None:
    with pytest.raises(YamlError):
        parse_yaml_with_lines(text)


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_document_has_no_value(text: str) -> None:
    assert parse_yaml_with_lines(text) == (None, {})
