"""A suite as a prompt file, and a job's labels that say which entry of the suite it is.

A clip is known by its entry and seed. Both travel with the job, in its labels and its seed, never in a file's name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.files.json_reader import JsonError, parse_json
from pipeline.prompts import Submission, parse_bytes
from pipeline.scoring.suite import Suite, SuiteEntry
from pipeline.settings import Settings
from pipeline.spec import SUITE_ENTRY_LABEL

_DIMENSION_LABEL = "vbench."
"""The prefix of a dimension's label; its value is the entry's ``auxiliary_info`` for it as JSON, or nothing."""


@dataclass(frozen=True, slots=True)
class EntryOfJob:
    """A suite's entry as a job's labels name it."""

    index: int
    dimensions: tuple[str, ...]
    auxiliary: Mapping[str, Any]


def prompt_lines(entries: Sequence[SuiteEntry]) -> bytes:
    """A .jsonl prompt file with a line for each entry."""
    lines = [
        {"prompt": entry.prompt, "custom_id": f"entry-{entry.index}", "labels": labels_of(entry)} for entry in entries
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def submission_of(suite: Suite, fields: Mapping[str, object], settings: Settings) -> Submission:
    """The suite's jobs, with ``fields`` as on a command line.

    Raises:
        InputError: with every mistake, by the suite's own file and entry.
    """
    try:
        return parse_bytes(prompt_lines(suite.entries), "suite.jsonl", overrides=fields, settings=settings)
    except InputError as error:
        raise InputError([_by_entry(problem, suite) for problem in error.problems]) from None


def _by_entry(problem: Problem, suite: Suite) -> Problem:
    entry = "" if problem.line is None else f"entry {suite.entries[problem.line - 1].index}: "
    return Problem(f"{entry}{problem.message}", suite.source, field=problem.field)


def labels_of(entry: SuiteEntry) -> dict[str, str]:
    labels = {SUITE_ENTRY_LABEL: str(entry.index)}
    for name in entry.dimensions:
        facts = entry.auxiliary.get(name)
        labels[_DIMENSION_LABEL + name] = "" if facts is None else json.dumps(facts, ensure_ascii=False)
    return labels


def entry_of(labels: Mapping[str, str]) -> EntryOfJob | None:
    """None for a job that belongs to no suite; also where its labels are not as a suite's jobs have them."""
    index = labels.get(SUITE_ENTRY_LABEL, "")
    if not index.isdecimal():
        return None
    facts = {
        name.removeprefix(_DIMENSION_LABEL): text for name, text in labels.items() if name.startswith(_DIMENSION_LABEL)
    }
    try:
        auxiliary = {name: parse_json(text) for name, text in facts.items() if text}
    except JsonError:  # a person's own labels, by the same names
        return None
    return EntryOfJob(int(index), tuple(facts), auxiliary)
