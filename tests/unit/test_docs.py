"""docs/ says everything that it promises to say, and its links lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import pytest
from typer.main import get_command

from cli.main import app
from pipeline.errors import FailureClass, StageError, StoppedError, VgenError
from pipeline.settings import Settings
from pipeline.states import (
    JOB_MOVES,
    JOB_STATE_MEANING,
    SESSION_MOVES,
    SESSION_STATE_MEANING,
    STEP_MOVES,
    STEP_STATE_MEANING,
    AttemptOutcome,
    JobState,
    SessionState,
    Stage,
    StepState,
)
from pipeline.storage.s3_errors import Kind
from service.exit_codes import ExitCode
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *REPOSITORY.glob("bench/*.md")])
_CODE = re.compile(r"[a-z]+(?:_[a-z]+)*")


def _page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def _section(text: str, title: str) -> str:
    """The text under a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


# States


@pytest.mark.parametrize(
    ("title", "meaning", "moves"),
    [
        ("Jobs", JOB_STATE_MEANING, JOB_MOVES),
        ("Sessions", SESSION_STATE_MEANING, SESSION_MOVES),
        ("Steps", STEP_STATE_MEANING, STEP_MOVES),
    ],
)
def test_states_and_moves_are_those_of_the_code(
    title: str, meaning: Mapping[StrEnum, str], moves: Mapping[StrEnum, frozenset[StrEnum]]
) -> None:
    # Given the table and the diagram of the page
    section = _section(_page("states.md"), title)
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", section, re.MULTILINE)
    arrows = {tuple(pair) for pair in re.findall(r"^    (\w+) --> (\w+)", section, re.MULTILINE)}

    # Then both have each state, its sentence and its moves, and none besides
    assert {name: sentence for name, sentence, _ in rows} == {s.value: text for s, text in meaning.items()}
    expected = {(state.value, target.value) for state, targets in moves.items() for target in targets}
    assert {(name, target) for name, _, cell in rows for target in re.findall(r"`(\w+)`", cell)} == expected
    assert arrows == expected


def test_every_state_has_a_sentence_and_its_moves() -> None:
    assert set(JOB_STATE_MEANING) == set(JOB_MOVES) == set(JobState)
    assert set(STEP_STATE_MEANING) == set(STEP_MOVES) == set(StepState)
    assert set(SESSION_STATE_MEANING) == set(SESSION_MOVES) == set(SessionState)


def test_every_outcome_of_an_attempt_is_described() -> None:
    section = _section(_page("states.md"), "How an attempt ends")

    assert set(re.findall(r"^\| `(\w+)` \| \S", section, re.MULTILINE)) == {outcome.value for outcome in AttemptOutcome}


def test_every_stage_has_its_row_and_its_section() -> None:
    page = _page("stages.md")

    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == [stage.value for stage in Stage]
    assert re.findall(r"^\| `(\w+)` \| `vgen\.", page, re.MULTILINE) == [stage.value for stage in Stage]


# Error codes


def _strings(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be; not those of a call or a key within it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*_strings(node.body), *_strings(node.orelse))
    elif isinstance(node, ast.Tuple):
        for part in node.elts:
            yield from _strings(part)


def _codes_of(source: str) -> Iterator[str]:
    """Constants that a piece of code gives to something called ``code`` or ``error_code``."""
    names = {"code", "error_code"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in names:
            yield from _strings(node.value)
        elif isinstance(node, ast.Assign):
            targets = [part for target in node.targets for part in ast.walk(target)]
            found = {part.id for part in targets if isinstance(part, ast.Name)}
            found |= {part.attr for part in targets if isinstance(part, ast.Attribute)}
            if found & names:
                yield from _strings(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_error":
            yield from (argument.value for argument in node.args[1:] if isinstance(argument, ast.Constant))


def stable_codes() -> set[str]:
    """Every error code in the code."""
    files = [
        path
        for folder in ("pipeline", "db", "tasks", "service", "cli", "vgen")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    found = {code for path in files for code in _codes_of(path.read_text("utf-8"))}
    return {code for code in found if _CODE.fullmatch(code)} | {kind.value for kind in Kind}


def _documented_codes() -> dict[str, str]:
    """Each documented code and its class."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+? \| .+? \|$", _page("errors.md"), re.MULTILINE)
    assert len(rows) == len({code for code, _ in rows}), "a code is documented twice"
    return dict(rows)


def test_every_error_code_is_documented_and_no_other() -> None:
    assert set(_documented_codes()) == stable_codes()


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        ('raise RetryableError("full", code="disk_full")', {"disk_full"}),
        ('code = "disk_full" if full else "handoff_unavailable"', {"disk_full", "handoff_unavailable"}),
        ('step.state, step.error_code = FAILED, "worker_lost"', {"worker_lost"}),
        ('raise self._error("slow", "encoder_timeout")', {"encoder_timeout"}),
        ('raise RetryableError("full")', set()),
        ('code = row["code"]', set()),
    ],
)
def test_codes_are_found_however_they_are_written(source: str, codes: set[str]) -> None:
    assert set(_codes_of(source)) == codes


def _classes(base: type[VgenError]) -> Iterator[type[VgenError]]:
    for child in base.__subclasses__():
        yield child
        yield from _classes(child)


def _raised(source: str) -> Iterator[tuple[str, str]]:
    """(name of the error class, code) of each error that is made with a constant code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for keyword in node.keywords:
                if keyword.arg == "code":
                    yield from ((node.func.id, code) for code in _strings(keyword.value))


def test_the_documented_class_is_that_of_the_error_with_the_code() -> None:
    # Given the class of each kind of error, in the page's words
    kinds = {
        error.__name__: error.failure_class.value.replace("_", " ")
        for error in _classes(VgenError)
        if issubclass(error, StageError) and error is not StoppedError
    }
    documented = _documented_codes()

    # Then each class has its own code, and whatever code it is raised with, under its word
    pairs = {(error.__name__, error.code) for error in _classes(VgenError)}
    for path in (REPOSITORY / "pipeline").rglob("*.py"):
        pairs |= set(_raised(path.read_text("utf-8")))
    wrong = {
        (name, code, documented[code]) for name, code in pairs if name in kinds and documented[code] != kinds[name]
    }
    assert wrong == set()
    assert set(documented.values()) == {kind.value.replace("_", " ") for kind in FailureClass} | {"–"}


# Settings and commands


def test_the_settings_page_is_not_stale() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "cli.settings_reference"], capture_output=True, text=True, check=True
    ).stdout

    assert printed == _page("settings.md"), "run `python -m cli.settings_reference > docs/settings.md`"


def test_every_setting_is_described_in_a_row() -> None:
    expected = set()
    for name, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        expected |= {f"VGEN_{name}_{part}".upper() for part in inner} if inner else {f"VGEN_{name}".upper()}

    rows = re.findall(r"^\| `(VGEN_\w+)` \| \S.*? \| \S.*? \| \S.* \|$", _page("settings.md"), re.MULTILINE)

    assert sorted(rows) == sorted(expected)


def _texts() -> Iterator[tuple[Path, str]]:
    for path in PAGES:
        yield path, path.read_text("utf-8")


def test_pages_name_only_settings_that_exist() -> None:
    known = set(re.findall(r"`(VGEN_\w+)`", _page("settings.md")))
    for path, text in _texts():
        named = set(re.findall(r"VGEN_[A-Z0-9_]*[A-Z0-9]\b(?!_|\*)", text))
        assert named <= known, f"{path.name}: {sorted(named - known)}"


def test_pages_name_only_commands_that_exist() -> None:
    command = get_command(app)
    known = set(command.commands)  # type: ignore[attr-defined]
    for path, text in _texts():
        named = set(re.findall(r"(?:`|^    |^\$ )(?:\.venv/bin/)?vgen ([a-z]+(?:-[a-z]+)*)", text, re.MULTILINE))
        assert named <= known, f"{path.name}: {sorted(named - known)}"


def test_the_readme_names_every_exit_code_and_every_command() -> None:
    text = (REPOSITORY / "README.md").read_text("utf-8")

    assert set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE)) == {str(code.value) for code in ExitCode}
    assert set(get_command(app).commands) <= set(re.findall(r"vgen ([a-z]+(?:-[a-z]+)*)", text))  # type: ignore[attr-defined]


# Links


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    outside_code = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", outside_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in _anchors(path.read_text("utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    # Given a page with good and bad links
    (tmp_path / "there.md").write_text("# Title\n\n## A second `heading`\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-second-heading) [c](gone.md) [d](there.md#gone) [e](https://example.org/x)",
        "utf-8",
    )

    # Then the bad ones are found
    assert broken_links(page) == ["gone.md", "there.md#gone"]


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [REPOSITORY / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        todo += [
            page.parent / target.partition("#")[0]
            for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
            if not re.match(r"[a-z]+:|#", target)
        ]

    assert {path.resolve() for path in DOCS.rglob("*.md")} <= seen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_pages_hold_no_marks_of_an_unfinished_merge(page: Path) -> None:
    assert not re.search(r"^(<{7}|={7}$|>{7})", page.read_text("utf-8"), re.MULTILINE)


# The map and the changelog


def test_the_map_names_each_thing_once() -> None:
    page = _page("architecture.md")
    tables = [[line for line in block.splitlines() if line.startswith("| ")] for block in page.split("\n\n")]
    for table in tables:
        named = [line.split(" | ")[0] for line in table]
        assert len(named) == len(set(named)), [name for name in named if named.count(name) > 1]
    numbers = [int(number) for number in re.findall(r"^(\d)\. ", page, re.MULTILINE)]
    assert numbers == list(range(1, 9))


def test_the_map_names_files_that_exist() -> None:
    named = re.findall(
        r"(?:pipeline|db|tasks|service|server|cli|vgen|migrations|deploy|bench|tests)/[\w/.]*", _page("architecture.md")
    )

    assert len(named) > 100
    assert [path for path in named if not (REPOSITORY / path.rstrip(".")).exists()] == []


def test_each_release_has_a_heading_once_and_says_nothing_twice() -> None:
    for release in (REPOSITORY / "CHANGELOG.md").read_text("utf-8").split("\n## ")[1:]:
        headings = re.findall(r"^### (.*)$", release, re.MULTILINE)
        assert len(headings) == len(set(headings)), headings
        entries = re.findall(r"^- (.{60})", release, re.MULTILINE)
        assert len(entries) == len(set(entries))
