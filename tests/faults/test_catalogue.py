"""Every entry of the fault catalogue names its tests, and these exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import failpoints
from tests.conftest import REPOSITORY
from tests.faults.mutants import MUTANTS, Mutant

OPEN: set[str] = set()
"""Entries without a test, each with its reason in the table."""
_ROW = re.compile(r"^\| (F\d+) \| .+? \| (.+?) \|$", re.MULTILINE)


def _rows() -> dict[str, str]:
    return dict(_ROW.findall((REPOSITORY / "tests/faults/README.md").read_text("utf-8")))


def test_every_entry_is_listed_in_order() -> None:
    assert list(_rows()) == [f"F{number}" for number in range(1, 51)]


def test_every_named_test_exists() -> None:
    for entry, cell in _rows().items():
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", cell)
        assert bool(named) == (entry not in OPEN), f"{entry}: {cell}"
        for file, test in named:
            text = (REPOSITORY / file).read_text("utf-8")
            assert f"def {test}(" in text if test else "def test_" in text, f"{entry}: {file}::{test}"


def test_every_failpoint_is_struck_by_a_test_of_its_own() -> None:
    """Overlap the storm, which strikes by chance."""
    told = [REPOSITORY / "tests/unit/pipeline/test_failpoints.py", Path(__file__)]
    texts = [path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py") if path not in told]

    assert [point for point in failpoints.POINTS if not any(re.search(rf"\b{point}\b", text) for text in texts)] == []


def test_every_failpoint_is_reached_somewhere() -> None:
    code = [path.read_text("utf-8") for folder in ("pipeline", "tasks") for path in (REPOSITORY / folder).rglob("*.py")]
    hit = {point for text in code for point in re.findall(r"failpoints\.hit\(\s*\"(\w+)\"", text)}

    assert hit == set(failpoints.POINTS)


def test_every_failpoint_is_documented() -> None:
    page = (REPOSITORY / "docs/operations.md").read_text("utf-8")
    section = page.split("### Failpoints", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", section, re.MULTILINE))

    assert rows.items() >= failpoints.POINTS.items()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_has_its_place_and_its_tests(mutant: Mutant) -> None:
    assert (REPOSITORY / mutant.path).read_text("utf-8").count(mutant.old) == 1
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in (REPOSITORY / file).read_text("utf-8"), test
