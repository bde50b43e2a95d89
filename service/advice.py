"""Advice before jobs are made: missing models, and text that has no effect."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pipeline.errors import InputError, Problem
from pipeline.models import hub
from pipeline.models.hub import examine
from pipeline.models.text_limits import count_tokens, may_exceed
from pipeline.presets import Preset, load_library
from pipeline.presets.binding import negative_prompt_acts, token_limit
from pipeline.presets.signatures import CallSignature, call_signature
from pipeline.prompts.submission import PlannedJob, alike
from pipeline.settings import Settings

_MOST_COUNTED = 10_000
"""Long prompts whose tokens are counted: a file of a million must not take minutes."""


def refuse_without_models(presets: set[str], settings: Settings) -> None:
    """Refuse jobs whose models are not here and whole, where this machine makes the clips now.

    Raises:
        InputError: one is not; the message has the command that mends it.
    """
    problems = model_sentences(presets, settings)
    if problems:
        raise InputError([Problem(sentence, field="preset") for sentence in problems])


def model_sentences(presets: set[str], settings: Settings) -> list[str]:
    """A sentence on each preset whose model is not here, or not whole. Only headers of files are read."""
    library, sentences = load_library(settings.effective_presets_dir), []
    for name in sorted(presets & set(library.presets)):
        state = hub.examine(library.presets[name], settings.effective_cache_dir)
        if state.problems:
            more = f" and {len(state.problems) - 1} more (`vgen models check {name}`)" if state.problems[1:] else ""
            where = "" if settings.solo else "; this matters only where a worker runs"
            sentences.append(f"{name!r}: its model is {state.status.value}: {state.problems[0]}{more}{where}")
    return sentences


def text_sentences(jobs: Sequence[PlannedJob], settings: Settings) -> list[str]:
    """A sentence on each kind of text that the models will not read, with the first line and how many jobs."""
    library = load_library(settings.effective_presets_dir)
    readers: dict[str, _Reader] = {}
    first: dict[tuple[str, str], str] = {}
    numbers: Counter[tuple[str, str]] = Counter()
    for job, count in alike(jobs):
        preset = library.presets.get(job.spec.preset)
        if preset is None or preset.generator == "idle":
            continue
        reader = readers.setdefault(preset.name, _Reader(preset, settings))
        for kind, sentence in reader.sentences(job):
            first.setdefault((preset.name, kind), f"line {job.line}: {sentence}")
            numbers[preset.name, kind] += count
    return [text + ("" if numbers[key] == 1 else f" ({numbers[key]} jobs)") for key, text in first.items()]


class _Reader:
    """The part of its jobs' texts that one preset's model reads."""

    def __init__(self, preset: Preset, settings: Settings) -> None:
        self._preset, self._settings = preset, settings
        self._left = _MOST_COUNTED

    @cached_property
    def _signature(self) -> CallSignature | None:
        return call_signature(self._preset.pipeline_class)

    @cached_property
    def _folder(self) -> Path | None:
        return examine(self._preset, self._settings.effective_cache_dir).folder

    def sentences(self, job: PlannedJob) -> list[tuple[str, str]]:
        """Return the sentences, each with its kind."""
        signature, spec, advice = self._signature, job.spec, list[tuple[str, str]]()
        if signature is None or not self._preset.takes_prompt:
            return []
        acts = negative_prompt_acts(signature, self._preset, spec.guidance_scale)
        if spec.negative_prompt and not acts:
            advice.append(("negative", f"negative_prompt has no effect at guidance_scale {spec.guidance_scale:g}"))
        limit = token_limit(signature, self._preset)
        texts = [("prompt", text) for text in spec.segment_prompts or (spec.prompt,)]
        texts += [("negative_prompt", spec.negative_prompt)] if spec.negative_prompt and acts else []
        for field, text in texts if limit is not None else ():
            number = self._tokens(text, limit or 0)
            if limit is not None and number > limit:
                advice.append((field, f"{field} has {number} tokens, and the text encoder reads {limit} of them"))
        return list(dict(advice).items())

    def _tokens(self, text: str, limit: int) -> int:
        """Tokens of a text that may have more than the limit; 0 where it cannot, or nobody can tell here."""
        if self._left <= 0 or not may_exceed(text, limit) or self._folder is None:
            return 0
        self._left -= 1
        return count_tokens(self._folder, text) or 0
