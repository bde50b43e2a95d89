"""Whatever a file holds, its reader ends in good time, with a value or with an error of ours that names the file.

A reader is a row of ``READERS`` and a folder of small files in tests/data/fuzz: good ones, and such as once did harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import pytest

from pipeline.errors import InputError, VgenError
from pipeline.presets import calibration, get_preset, load_library
from pipeline.prompts import parse
from pipeline.scoring import exchange
from pipeline.scoring.aggregates import pool_dimension
from pipeline.scoring.compare import Run, combined, compare, run_of
from pipeline.scoring.compare.html import html
from pipeline.scoring.compare.report import Report
from pipeline.scoring.registry import METRICS
from pipeline.scoring.score_file import by_metric, mixed_scorers, read_scores
from pipeline.scoring.suite import Suite, SuiteEntry, read_suite
from pipeline.scoring.suite_jobs import submission_of
from pipeline.scoring.vbench import DIMENSIONS
from pipeline.settings import Settings
from tests.mutations import damaged
from vgen import read_config
from vgen.request import planned

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"
MUTATIONS = 40
"""Of each file of the corpus; a row takes a second or two."""
LIMIT_S = 20.0
"""CPU time of one file of at most some kilobytes: a hang takes minutes, a busy machine does not take this."""
SETTINGS = Settings()
SUITE = Suite((SuiteEntry(0, "a", ("color",), {}), SuiteEntry(1, "b", ("scene",), {})), "0")


@dataclass(frozen=True)
class Reader:
    """How a file of the folder ``corpus`` is read, as a command reads it, under the name ``file``."""

    corpus: str
    file: str
    read: Callable[[Path], object]


def read_prompts(path: Path) -> object:
    submission = parse(path, overrides={}, settings=SETTINGS)
    return [job.spec.model_dump_json() for _, job in zip(range(50), submission.jobs, strict=False)]


def read_run_yaml(path: Path) -> object:
    run = read_config(path)
    assert run.request is not None
    try:
        return planned(run.request, "tiny-wan", SETTINGS, path.parent)
    except InputError as error:  # as `vgen generate` says it
        raise error.in_file(str(path)) from None


def read_preset(path: Path) -> object:
    library = load_library(path.parent)
    assert "tiny-wan" in library.presets
    problems = [problem for one in library.problems.values() for problem in one]
    if problems:
        raise InputError(problems)
    return [(library.digest(name), preset.model_dump_json()) for name, preset in library.presets.items()]


def read_ratios(path: Path) -> object:
    ratios = calibration.read(path.parent, get_preset("tiny-wan"))
    if isinstance(ratios, str):
        raise InputError(ratios)
    return ratios


def read_score_file(path: Path) -> object:
    records = read_scores(path)
    scores = by_metric(records)
    mixed_scorers(records)
    for name in DIMENSIONS:
        pool_dimension(name, scores.get(f"vbench.{name}", []))
    run = run_of(records, str(path))
    compared = compare(run, combined(run, Run("none")), list(METRICS.values()), {})
    return html(Report(compared, [run]))


def read_suite_file(path: Path) -> object:
    return len(submission_of(read_suite(path), {"seeds": "1-2"}, SETTINGS).jobs)


def read_results(path: Path) -> object:
    exported = exchange.Exported("color", "a-0.mp4", "/a.mp4", 0, 1, 3)
    return exchange.read_results(path, {("color", "a-0.mp4"): exported})


READERS = (
    Reader("prompts_txt", "prompts.txt", read_prompts),
    Reader("prompts_jsonl", "prompts.jsonl", read_prompts),
    Reader("prompts_csv", "prompts.csv", read_prompts),
    Reader("prompts_yaml", "prompts.yaml", read_prompts),
    Reader("run_yaml", "run.yaml", read_run_yaml),
    Reader("preset", "mine.toml", read_preset),
    Reader("ratios", "tiny-wan.mag-ratios.json", read_ratios),
    Reader("suite", "suite.json", read_suite_file),
    Reader("manifest", "manifest.json", partial(exchange.read_manifest, suite=SUITE)),
    Reader("scores", "scores.json", read_score_file),
    Reader("export", "vgen-export.json", lambda path: exchange.read_export(path.parent)),
    Reader("results", "x_eval_results.json", read_results),
)


def message_of(reader: Reader, path: Path) -> str | None:
    """What is said of the file, None where it was read; an error that is not of ours fails the test."""
    try:
        reader.read(path)
    except VgenError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{reader.corpus}: {path.read_bytes()!r} ended in {error!r}") from error
    return None


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.corpus)
def test_any_file_is_read_or_refused_by_name_in_good_time(reader: Reader, tmp_path: Path) -> None:
    files = sorted((CORPUS / reader.corpus).iterdir())
    assert files
    path = tmp_path / reader.file
    for file in files:
        content = file.read_bytes()
        for data in (content, b"", *damaged(content, Random(file.name), MUTATIONS)):
            path.write_bytes(data)
            begun = time.process_time()
            message = message_of(reader, path)
            assert message is None or path.name in message, (data, message)
            assert len(message or "") < 100_000, data
            assert time.process_time() - begun < LIMIT_S, data


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.corpus)
def test_one_file_of_each_corpus_is_good(reader: Reader, tmp_path: Path) -> None:
    """Without one the mutations would try the first check only."""
    if reader.corpus == "ratios":
        pytest.skip("its digest is that of a preset of this release")
    messages = []
    for file in (CORPUS / reader.corpus).iterdir():
        (tmp_path / reader.file).write_bytes(file.read_bytes())
        messages.append(message_of(reader, tmp_path / reader.file))
    assert None in messages, messages
