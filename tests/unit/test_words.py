"""Messages of the product are plain English, and the names of an older private language stay away."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("pipeline", "db", "tasks", "service", "server", "cli", "vgen")

IS_NO = re.compile(r"(?<!there )\b(?:is|are) no (?!longer\b|more\b)")
"""``'later' is not a valid time``; "there is no file" and "is no longer there" are plain English."""

GONE = frozenset(
    {
        "CanWait",
        "CheckpointRows",
        "GpuLine",
        "Heart",
        "Hops",
        "LaneKeeper",
        "LaneSwitch",
        "LetGo",
        "Pulse",
        "RunsGenerations",
        "SELDOM",
        "SETTLED",
        "TakesCheckpoints",
        "Workshop",
        "arsenal",
        "be_called",
        "begin_again",
        "begin_next",
        "beside_ms",
        "fetch_ahead",
        "forget_models",
        "give_out",
        "gravest",
        "heed",
        "hop",
        "hops",
        "lane",
        "lanes",
        "last_words",
        "next_hop",
        "outgrown",
        "ripen",
        "set_aside",
        "shop",
        "side_by_side",
        "strangers",
        "take_back",
        "take_room",
        "to_do",
        "why_not",
        "why_rejected",
    }
)
"""Whole identifiers of the private language that product code had once; a leading underscore does not count."""


def _docstrings(tree: ast.AST) -> set[int]:
    """The ids of the nodes that are docstrings, of attributes too: they are for readers of the code."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    skipped = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def _identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.ClassDef(name=name):
                yield line, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield line, name
            case ast.alias(name=name, asname=asname):
                yield from ((line, part) for part in (*name.split("."), asname or ""))
            case ast.keyword(arg=str(name)):
                yield node.value.lineno, name


def unclear_messages(source: str) -> list[tuple[int, str]]:
    return [(line, text) for line, text in _messages(ast.parse(source)) if IS_NO.search(text)]


def private_words(source: str) -> list[tuple[int, str]]:
    return [(line, name) for line, name in _identifiers(ast.parse(source)) if name.strip("_") in GONE]


def _in_package(package: str, find: Callable[[str], list[tuple[int, str]]]) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [f"{path.relative_to(ROOT)}:{line}: {text}" for path in files for line, text in find(path.read_text())]


@pytest.mark.parametrize("package", PRODUCT)
def test_messages_say_what_is_wrong_in_plain_english(package: str) -> None:
    assert _in_package(package, unclear_messages) == [], "write: X is not a valid Y: use A, B or C"


@pytest.mark.parametrize("package", PRODUCT)
def test_names_of_the_private_language_are_gone(package: str) -> None:
    assert _in_package(package, private_words) == [], "use the field's own word"


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        ("raise ValueError(f'{text!r} is no moment')", True),
        ("raise ValueError('these are no files')", True),
        ("raise ValueError(f'there is no file {name}')", False),
        ("raise ValueError('the file is no longer there')", False),
        ("def f():\n    'A name that is no preset.'", False),
    ],
)
def test_only_messages_of_the_wrong_form_are_refused(source: str, refused: bool) -> None:
    assert bool(unclear_messages(source)) == refused
