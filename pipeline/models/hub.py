"""Finds, checks and downloads a preset's model. Only ``pull`` uses the network."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is not in its list
    GatedRepoError,
    HTTPError,  # the base of its HTTP client's errors, under whatever name that client has
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline.errors import NotFoundError, RefusedError, ServiceUnavailableError
from pipeline.files.disk_errors import is_of_own_disk, translate_os_error
from pipeline.files.drafts import draft_of
from pipeline.models.folder_revision import folder_revision
from pipeline.models.model_files import INDEX, folder_problems
from pipeline.presets import Preset

BUILT_IN = frozenset({"tiny-wan"})
"""Models that are made in code, by the preset's ``repo``."""
SHIPPED: Mapping[str, Path] = {"shapes-wan": Path(__file__).parent / "weights" / "shapes-wan"}
"""Models whose weights are installed with this package, by the preset's ``repo``: their folders."""


class ModelStatus(StrEnum):
    """The status of a preset's model on this host."""

    READY = "ready"
    DAMAGED = "damaged"
    MISSING = "missing"
    BUILT_IN = "built in"


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """The result of ``check``; without problems the model can be loaded."""

    status: ModelStatus
    folder: Path | None
    problems: tuple[str, ...]


def model_folder(preset: Preset, cache_dir: Path) -> tuple[Path, str]:
    """The model's folder and its revision; a built-in model is built when it is not there.

    Raises:
        RefusedError: code ``model_missing``.
    """
    if preset.repo in BUILT_IN:
        return _build(cache_dir)
    folder = _local_folder(preset, cache_dir)
    if folder is None:
        raise RefusedError(f"the model of preset {preset.name!r} is {_absent(preset)}", code="model_missing")
    if _own_folder(preset) is not None:
        try:
            return folder, folder_revision(folder, cache_dir)
        except (OSError, ValueError) as error:
            message = f"the model of preset {preset.name!r} cannot be read: {_first_line(error)}"
            raise RefusedError(message, code="model_missing") from error
    return folder, folder.name  # in the hub cache a snapshot's folder is named by its commit


def model_status(preset: Preset, cache_dir: Path) -> ModelStatus:
    """Return whether the model is on this disk and its files are whole, by their headers."""
    return examine(preset, cache_dir).status


def examine(preset: Preset, cache_dir: Path) -> ModelCheck:
    """Return what can be known of the model without loading a library; ``check`` also compares it with its classes."""
    if preset.repo in BUILT_IN or preset.generator == "idle":
        return ModelCheck(ModelStatus.BUILT_IN, None, ())
    folder = _local_folder(preset, cache_dir)
    if folder is None:
        return ModelCheck(ModelStatus.MISSING, None, (_absent(preset),))
    whole = ModelStatus.BUILT_IN if preset.repo in SHIPPED else ModelStatus.READY
    problems = folder_problems(folder, half=preset.dtype == "float16")
    return ModelCheck(ModelStatus.DAMAGED if problems else whole, folder, tuple(problems))


def pull(preset: Preset, cache_dir: Path, tell: Callable[[str], None] = lambda _: None) -> str:
    """Download the preset's revision into the hub cache and pin its commit; the commit.

    ``tell`` is given a sentence on the size before anything is downloaded.

    Raises:
        NotFoundError: the hub has no such repository or revision, or wants a login.
        ServiceUnavailableError: the hub cannot be reached.
    """
    if preset.repo in BUILT_IN:
        return _build(cache_dir)[1]
    if preset.repo in SHIPPED:
        return model_folder(preset, cache_dir)[1]
    if preset.generator == "idle":
        return "built in"
    if Path(preset.repo).is_absolute():
        raise NotFoundError(f"the model of preset {preset.name!r} is a folder, {preset.repo}: nothing to download")
    commit = download(preset.repo, preset.revision, lambda _names: _wanted_files(), tell)
    _write_pin(cache_dir, preset, commit)
    return commit


def download(
    repo: str,
    revision: str,
    wanted: Callable[[Collection[str]], list[str]],
    tell: Callable[[str], None] = lambda _: None,
    target: Path | None = None,
) -> str:
    """Download files of a repository into the hub cache, or into the folder ``target``; the commit.

    ``wanted`` is given the names of all files, and returns which to fetch, as patterns. Files that are there and whole
    are not fetched again. ``tell`` is given a sentence on the size before anything is downloaded.

    Raises:
        NotFoundError: the hub has no such repository or revision, or wants a login.
        ServiceUnavailableError: the hub cannot be reached, or may not be (``HF_HUB_OFFLINE``).
        StageError: a file cannot be written, as on a full disk.
    """
    folder = Path(HF_HUB_CACHE) if target is None else target
    try:
        info = HfApi().model_info(repo, revision=revision)
        if info.sha is None:
            raise NotFoundError(f"{repo} at {revision!r} has no commit")
        patterns = wanted([file.rfilename for file in info.siblings or ()])
        files = snapshot_download(repo, revision=info.sha, allow_patterns=patterns, local_dir=target, dry_run=True)
        tell(_size_sentence([file.file_size for file in files if file.will_download], folder))
        snapshot_download(repo, revision=info.sha, allow_patterns=patterns, local_dir=target)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise NotFoundError(f"{repo} at {revision!r}: {_first_line(error)}") from error
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and is_of_own_disk(error):
            raise translate_os_error(error, folder) from error
        raise ServiceUnavailableError(f"the hub, for {repo}: {_first_line(error)}") from error
    return info.sha


def _size_sentence(sizes: Sequence[int | None], folder: Path) -> str:
    if not sizes:
        return "all of its files are here already"
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    unknown = f" and {sizes.count(None)} of unknown size" if None in sizes else ""
    known = sum(size or 0 for size in sizes) / 1e9
    return f"{len(sizes)} files, {known:.1f} GB{unknown} to download into {folder}, where {free / 1e9:.1f} GB are free"


def check(preset: Preset, cache_dir: Path) -> ModelCheck:
    """Return whether the class exists, every component's files are whole, and their tensors are those of its class."""
    result = examine(preset, cache_dir)
    if preset.generator == "idle":
        return result
    problems: list[str] = []
    try:
        from pipeline.models.pipeline_class import pipeline_class  # noqa: PLC0415 - loads torch

        cls = pipeline_class(preset.pipeline_class)
        unknown = set(preset.arguments) - set(inspect.signature(cls.__call__).parameters)
        problems += [f"arguments.{name}: {preset.pipeline_class} takes no such argument" for name in sorted(unknown)]
    except RefusedError as error:
        problems.append(str(error))
    if preset.repo in BUILT_IN:
        result = replace(result, folder=_build(cache_dir)[0])
        result = replace(result, problems=tuple(folder_problems(result.folder)) if result.folder else ())
    if result.folder is not None and not result.problems:
        from pipeline.models.model_fit import class_problems  # noqa: PLC0415 - loads torch

        differences = class_problems(preset, result.folder)
        status = ModelStatus.DAMAGED if differences and preset.repo not in BUILT_IN else result.status
        result = replace(result, status=status, problems=tuple(differences))
    return replace(result, problems=(*problems, *result.problems))


def pins(cache_dir: Path) -> dict[str, str]:
    """Commits by ``repo@revision``, as ``pull`` resolved them."""
    try:
        content = json.loads(_pins_file(cache_dir).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return {str(key): str(value) for key, value in content.items()}


def _build(cache_dir: Path) -> tuple[Path, str]:
    from pipeline.models.tiny_wan import REVISION, ensure_tiny_wan  # noqa: PLC0415 - loads torch

    return ensure_tiny_wan(cache_dir), REVISION


def _local_folder(preset: Preset, cache_dir: Path) -> Path | None:
    local = _own_folder(preset)
    if local is not None:
        return local if (local / INDEX).is_file() else None
    revision = pins(cache_dir).get(_pin_key(preset), preset.revision)
    index_path = try_to_load_from_cache(preset.repo, INDEX, revision=revision)
    return Path(index_path).parent if isinstance(index_path, str) else None


def _own_folder(preset: Preset) -> Path | None:
    """The folder that the preset names, or whose weights are installed with vgen; None for a model of the hub."""
    return SHIPPED.get(preset.repo) or (Path(preset.repo) if Path(preset.repo).is_absolute() else None)


def _absent(preset: Preset) -> str:
    if (folder := _own_folder(preset)) is not None:
        return f"not on this machine: there is no {folder / INDEX}"
    return f"not on this machine: `vgen models pull {preset.name}`"


def _wanted_files() -> list[str]:
    """The files that ``from_pretrained`` reads: no loose checkpoints at the top, which many repositories hold too."""
    return [INDEX, "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model"]


def _pins_file(cache_dir: Path) -> Path:
    return cache_dir / "models" / "pins.json"


def _pin_key(preset: Preset) -> str:
    return f"{preset.repo}@{preset.revision}"


def _write_pin(cache_dir: Path, preset: Preset, commit: str) -> None:
    target = _pins_file(cache_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(target) as draft:
        draft.write_text(json.dumps({**pins(cache_dir), _pin_key(preset): commit}, indent=2), "utf-8")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
