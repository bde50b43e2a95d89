"""Reads job specifications from untrusted files: what the file decides, and what this installation decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import output
from cli.options import BatchChoices
from pipeline.errors import InputError, Problem
from pipeline.presets import load_library
from pipeline.prompts.imported import Imported, resolve_specification
from pipeline.prompts.numbers import show
from pipeline.prompts.scoring import NO_SCORING, FileScoring, read_scoring
from pipeline.prompts.sidecar_file import SidecarFile, read_sidecar
from pipeline.prompts.stored_inputs import StoredInputs
from pipeline.settings import Settings
from pipeline.spec import BatchOptions
from pipeline.wiring import make_storage
from service.submission import batch_options

if TYPE_CHECKING:
    from pipeline.stages.state_file import StateFile  # numpy, and a sidecar file needs none

_OPTIONS = ("safety_policy", "must_screen", "encode", "score")


def stored_inputs(settings: Settings) -> StoredInputs:
    """Finds the inputs that files name by digest in this site's store."""
    return StoredInputs(make_storage(settings).download)


def of_sidecar(path: Path, settings: Settings, inputs: StoredInputs) -> tuple[Imported, BatchOptions]:
    """The clip's specification under the site's options; what of the file does not hold is said.

    Raises:
        InputError: not a sidecar, or its specification breaks a rule; every mistake has the file and the field.
    """
    sidecar = read_sidecar(path)
    imported = resolve_specification(sidecar.request, file=str(path), settings=settings, inputs=inputs)
    options = batch_options(BatchChoices(), settings)
    for text in (*imported.notices, *_other_preset(sidecar, imported, settings), *_encoder(sidecar.encode, options)):
        output.notice(f"{path}: {text}")
    return imported, options


def of_state(path: Path, state: StateFile, settings: Settings, inputs: StoredInputs) -> tuple[Imported, BatchOptions]:
    """The same of a continuation state; its scores are asked for as a prompt file's would be."""
    imported = resolve_specification(state.request, file=str(path), settings=settings, inputs=inputs, continues=True)
    unknown = sorted(state.options.keys() - set(_OPTIONS))
    if unknown:
        raise InputError([Problem("unknown field", str(path), field=f"options.{name[:80]}") for name in unknown])
    scoring = _scoring(state.options.get("score"), path)
    try:
        options = batch_options(BatchChoices(), settings, scoring)
    except InputError as error:
        raise InputError(
            [
                Problem(problem.message, str(path), field=f"options.score ({problem.field})")
                for problem in error.problems
            ]
        ) from None
    policy = state.options.get("safety_policy")
    replaced = (
        [] if policy in (None, options.safety_policy) else [_replaced("safety policy", policy, options.safety_policy)]
    )
    for text in (*imported.notices, *replaced, *_encoder(state.options.get("encode"), options)):
        output.notice(f"{path}: {text}")
    return imported, options


def _scoring(raw: object, path: Path) -> FileScoring:
    if raw is None:
        return NO_SCORING
    names = {"metrics": "score", "gate": "gate", "reroll": "reroll"}
    problems: list[Problem] = []
    if not isinstance(raw, Mapping) or raw.keys() - names.keys():
        message = f"{show(raw)} is not a mapping with {', '.join(names)}"
        raise InputError([Problem(message, str(path), field="options.score")])
    fields = {names[name]: value for name, value in raw.items()}
    if not fields.get("reroll"):
        fields.pop("reroll", None)
    scoring = read_scoring(
        fields, lambda field, text: problems.append(Problem(text, str(path), field=f"options.score.{field}"))
    )
    if problems:
        raise InputError(problems)
    return scoring


def _encoder(raw: object, options: BatchOptions) -> list[str]:
    own: dict[str, Any] = options.encode.model_dump()
    return [] if raw in (None, {}, own) else [_replaced("encoder", raw, own)]


def _replaced(what: str, raw: object, own: object) -> str:
    return f"its {what} {show(raw)} is replaced by this site's, {show(own)}"


def _other_preset(sidecar: SidecarFile, imported: Imported, settings: Settings) -> list[str]:
    """Return a notice where the preset is not what it was: the frames may differ."""
    library = load_library(settings.effective_presets_dir)
    preset, digest = library.presets[imported.spec.preset], sidecar.request.get("preset_digest")
    if digest is not None and preset.digest != digest:
        return [
            f"made with another form of preset {preset.name} than {library.source(preset.name)} is now, "
            "so the frames may differ; the sidecar's preset.values has the one it was made with"
        ]
    if sidecar.preset_version not in (None, preset.version):
        return [
            f"made with version {sidecar.preset_version} of preset {preset.name}; it is {preset.version} now, "
            "so the frames may differ"
        ]
    return []
