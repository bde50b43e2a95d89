"""Parse a prompt file into a submission; all is checked before anything is stored, and every mistake is shown."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline.errors import InputError, Problem
from pipeline.files.pipes import read_file_or_pipe
from pipeline.inputs.collector import InputCollector
from pipeline.presets import load_library
from pipeline.prompts.fields import MAX_JOBS
from pipeline.prompts.formats.lines import MAX_FILE_BYTES
from pipeline.prompts.formats.readers import other_format, reader_of
from pipeline.prompts.formats.table import Reader, Record, Table
from pipeline.prompts.layers import LayerReader, Sweep, Values, merge
from pipeline.prompts.problems import Problems
from pipeline.prompts.resolve import Resolver
from pipeline.prompts.scoring import SCORE_FIELDS, FileScoring, read_scoring
from pipeline.prompts.segments import contradictions
from pipeline.prompts.submission import PlannedJobs, Shot, Submission, fingerprint_of
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.inputs.downloads import Downloader

_OWN_FIELDS = frozenset({"prompt", "seeds", "custom_id", "labels"})
"""The fields in which lines usually differ; a line with nothing else shares the file's template."""


def parse(path: Path, *, overrides: Mapping[str, object], settings: Settings) -> Submission:
    """Read, check and expand a prompt file.

    Args:
        path: a ``.txt``, ``.jsonl``, ``.csv``, ``.yaml`` or ``.yml`` file.
        overrides: fields given on the command line, as text or typed; None is not given.
        settings: give the default preset, whether prompts are enhanced, and the folders of inputs.

    Raises:
        InputError: with every mistake found.
    """
    data = read_file_or_pipe(path, what="the prompt file", limit_bytes=MAX_FILE_BYTES)
    return parse_bytes(data, str(path), overrides=overrides, settings=settings, folder=path.absolute().parent)


def parse_bytes(
    data: bytes, name: str, *, overrides: Mapping[str, object], settings: Settings, folder: Path | None = None
) -> Submission:
    """Do what ``parse`` does, for bytes; the name's ending is the format, relative image paths start at ``folder``."""
    return _parse(data, name, overrides, settings, folder or Path.cwd())


def parse_upload(data: bytes, name: str, *, settings: Settings) -> Submission:
    """Do the same for a file from elsewhere: no path of this host is read. Raises InputError."""
    return _parse(data, name, {}, settings, None)


def _parse(
    data: bytes, name: str, overrides: Mapping[str, object], settings: Settings, folder: Path | None
) -> Submission:
    reader = _reader(name)
    if len(data) > MAX_FILE_BYTES:
        raise InputError([Problem(f"has {len(data)} bytes; at most {MAX_FILE_BYTES}", name)])
    if (sentence := other_format(data)) is not None:
        raise InputError([Problem(sentence, name)])
    with contextlib.ExitStack() as stack:
        inputs = InputCollector(folder, settings.input_roots, _lazy_downloader(stack, settings))
        return _read(data, name, reader, overrides, settings, inputs)


def parse_fields(
    jobs: Sequence[Mapping[str, object]],
    name: str,
    *,
    settings: Settings,
    files: Mapping[str, Path] | None = None,
    inputs: InputCollector | None = None,
) -> Submission:
    """Do the same for fields that came without a file, such as a request's: one line's for each of ``jobs``.

    No path of this host is read but those of ``files``, by the names that the fields call them. Numbers may be text.
    ``inputs``, where it is given, finds them instead.

    Raises:
        InputError: with every mistake found; its problems name no file and no line.
    """
    records = iter([Record(line, fields) for line, fields in enumerate(jobs, 1)])
    with contextlib.ExitStack() as stack:
        inputs = inputs or InputCollector(None, (), _lazy_downloader(stack, settings), files=files)
        try:
            return _expand(Table((), records, text=True), Problems(name), {}, settings, inputs)
        except InputError as error:
            raise InputError([replace(problem, file=None, line=None) for problem in error.problems]) from None


def _reader(name: str) -> Reader:
    reader = reader_of(name)
    if isinstance(reader, str):
        raise InputError([Problem(reader, name)])
    return reader


def _lazy_downloader(stack: contextlib.ExitStack, settings: Settings) -> Callable[[], Downloader]:
    """Return what makes a downloader, which is closed with the stack."""

    def make() -> Downloader:
        from pipeline.inputs.downloads import Downloader  # noqa: PLC0415 - an HTTP client, which few files need

        fetch = settings.fetch
        return stack.enter_context(contextlib.closing(Downloader(allowed=fetch.networks, timeout_s=fetch.timeout_s)))

    return make


def _read(
    data: bytes, name: str, reader: Reader, overrides: Mapping[str, object], settings: Settings, inputs: InputCollector
) -> Submission:
    problems = Problems(name)
    return _expand(reader(data, problems), problems, overrides, settings, inputs)


def _expand(
    table: Table, problems: Problems, overrides: Mapping[str, object], settings: Settings, inputs: InputCollector
) -> Submission:
    expander = _Expander(problems, LayerReader(inputs), settings)
    expander.read_common(table, overrides)
    for record in table.records:
        expander.add_line(record.line, record.fields, table.text)
    if not problems.count and not expander.shots:
        problems.add("holds no prompt")
    problems.raise_if_any()
    fingerprint = fingerprint_of(expander.shots)
    jobs = PlannedJobs(expander.shots)
    # A file's name need not be UTF-8; what is stored must be.
    source_name = os.fsencode(Path(problems.file).name).decode("utf-8", "backslashreplace")
    return Submission(jobs, fingerprint, dict(inputs.stored), source_name, expander.scoring)


class _Expander:
    """Lines to shots, under the file's defaults and the command line."""

    def __init__(self, problems: Problems, reader: LayerReader, settings: Settings) -> None:
        self.shots: list[Shot] = []
        self.scoring = FileScoring()
        self._problems = problems
        self._reader = reader
        self._resolver = Resolver(load_library(settings.effective_presets_dir))
        self._base: Values = {"preset": settings.preset, "enhance": settings.enhance.enabled, "priority": 0, "gpu": ()}
        self._defaults: Values = {}
        self._overrides: Values = {}
        self._common: Values = {}
        self._sweep: Sweep | None = None
        self._sweep_is_files = False
        self._jobs = 0
        self._first_line_of_id: dict[str, int] = {}
        self._lines_with: dict[str, tuple[int, int]] = {}
        """Of each prompt: how many lines had it before the last one that has it, and that one's number."""

    def read_common(self, table: Table, overrides: Mapping[str, object]) -> None:
        """Read what holds for every line. What names one job only cannot stand there."""
        raw: dict[str, object] = {}
        last_line = None
        for record in table.defaults:
            last_line = record.line
            for field, value in record.fields.items():
                if field in raw:
                    self._report(record.line, field, "is given twice in the defaults")
                raw[field] = value
        score_fields = {field: raw.pop(field) for field in SCORE_FIELDS if field in raw}
        self.scoring = read_scoring(score_fields, partial(self._report, last_line))
        self._defaults, file_sweep = self._reader.read(raw, table.text, partial(self._report, last_line))
        self._overrides, sweep = self._reader.read(overrides, True, self._report_option)
        for values, report in (
            (self._defaults, partial(self._report, last_line)),
            (self._overrides, self._report_option),
        ):
            if "segment_prompts" in values:
                report(
                    "segments", "a list of prompts is allowed on a single line only; a number is allowed as a default"
                )
            if "custom_id" in values:
                report("custom_id", "cannot be the same for every line; give it on lines")
        self._sweep, self._sweep_is_files = (sweep, False) if sweep is not None else (file_sweep, True)
        self._common = merge(merge(self._base, self._defaults), self._overrides)

    def add_line(self, line: int, fields: Mapping[str, object], text: bool) -> None:
        before = self._problems.count
        values, sweep = self._reader.read(fields, text, partial(self._report, line))
        if self._problems.count != before:
            return
        if sweep is None and self._sweep is None:
            merged = merge(self._common, values) if values.keys() - _OWN_FIELDS or "labels" in values else None
            self._add_shots(line, [merged if merged is not None else {**self._common, **values}], 1, False)
            return
        layers = [self._base, self._defaults, self._overrides, values]
        level = 3
        if sweep is None:
            assert self._sweep is not None
            level = 1 if self._sweep_is_files else 2
            sweep = self._sweep.without({name for layer in layers[level + 1 :] for name in layer})
        if self._too_many(line, sweep.count()):
            return
        swept_ids = any(column.name == "custom_id" for column in sweep.columns)
        combined = []
        for combination in sweep.combinations():
            merged = self._base
            for layer in [*layers[1 : level + 1], combination, *layers[level + 1 :]]:
                merged = merge(merged, layer)
            combined.append(merged)
        self._add_shots(line, combined, len(combined), swept_ids)

    def _add_shots(self, line: int, combined: list[Values], combinations: int, swept_ids: bool) -> None:
        total = sum(
            1 if (seeds := values.get("seeds")) is None else len(cast("Sequence[int]", seeds)) for values in combined
        )
        if self._too_many(line, total):
            return
        self._jobs += total
        variant = 0
        reported: set[tuple[str, str]] = set()
        for values in combined:
            template, mistakes = self._resolver.resolve(values)
            if "prompt" not in values:
                mistakes = (*mistakes, ("prompt", "is missing"))
            else:
                mistakes = (*mistakes, *contradictions(values))
            for mistake in mistakes:
                if mistake not in reported:  # a sweep would repeat it for every combination
                    reported.add(mistake)
                    self._report(line, *mistake)
            if mistakes:
                continue
            seeds = cast("Sequence[int] | None", values.get("seeds"))
            count = 1 if seeds is None else len(seeds)
            shot = Shot(
                line=line,
                variant=variant,
                prompt=cast(str, values["prompt"]),
                template=template,
                seeds=seeds,
                custom_id=cast("str | None", values.get("custom_id")),
                numbered=count > 1 or (combinations > 1 and not swept_ids),
                labels=cast("dict[str, str] | None", values.get("labels")),
                occurrence=self._occurrence(cast(str, values["prompt"]), line),
            )
            self._check_ids(shot)
            self.shots.append(shot)
            variant += count

    def _occurrence(self, prompt: str, line: int) -> int:
        """Count the lines before this one that have its prompt; a sweep makes several jobs of one line."""
        before, last = self._lines_with.get(prompt, (-1, -1))
        if last != line:
            before += 1
            self._lines_with[prompt] = (before, line)
        return before

    def _too_many(self, line: int, jobs: int) -> bool:
        """Counted before anything is expanded, and reported once, where the limit is crossed."""
        if self._jobs + jobs <= MAX_JOBS:
            return False
        if self._jobs <= MAX_JOBS:
            self._report(line, None, f"the file makes more than {MAX_JOBS} jobs; split it")
            self._jobs = MAX_JOBS + 1
        return True

    def _check_ids(self, shot: Shot) -> None:
        if shot.custom_id is None:
            return
        for offset in range(len(shot)):
            custom_id = cast(str, shot.custom_id_of(offset))
            first = self._first_line_of_id.get(custom_id)
            if first is None:
                self._first_line_of_id[custom_id] = shot.line
            else:
                self._report(shot.line, "custom_id", f"{custom_id!r} is already used on line {first}")

    def _report(self, line: int | None, field: str | None, message: str) -> None:
        self._problems.add(message, line=line, field=field)

    def _report_option(self, field: str, message: str) -> None:
        self._problems.add(f"{message} (from the command line)", field=field)
