"""All presets by name: the catalogue's, and the user's own from a folder of TOML files.

A user's file is read anew whenever it changed, so that a preset can be added while workers run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError, NotFoundError, Problem, RefusedError
from pipeline.nearest import did_you_mean
from pipeline.presets.preset import Preset, all_presets
from pipeline.presets.user_file import read_user_preset

CATALOGUE_SOURCE = "catalogue"


@dataclass(frozen=True, slots=True)
class Library:
    """The presets at hand; ``problems`` are those of files that give none, by the name they would give."""

    presets: Mapping[str, Preset]
    files: Mapping[str, Path]
    """The file of each of the user's presets."""
    problems: Mapping[str, tuple[Problem, ...]]
    folder: Path | None

    def source(self, name: str) -> str:
        """``catalogue``, or the path of the user's file."""
        return str(self.files[name]) if name in self.files else CATALOGUE_SOURCE

    def digest(self, name: str) -> str | None:
        """Return what a job of a user's preset is pinned to; None for the catalogue's, which have versions."""
        return self.presets[name].digest if name in self.files else None

    def explain(self, name: str, *, hints: bool = True) -> str:
        """The sentence on a name that is not a preset: what is wrong with its file, or which names there are.

        Without ``hints`` the nearest name is not looked for, which takes its time.
        """
        if name in self.problems:
            return "; ".join(str(problem) for problem in self.problems[name])
        hint = did_you_mean(name, self.presets) if hints else ""
        return f"{name!r} is unknown; {hint}known: {', '.join(self.presets)}{self._searched()}"

    def get(self, name: str) -> Preset:
        """The preset of that name.

        Raises:
            InputError: it is a user's, and its file is wrong; every mistake is named.
            NotFoundError: there is none; the message lists those there are, and where was looked.
        """
        if name in self.presets:
            return self.presets[name]
        if name in self.problems:
            raise InputError(self.problems[name])
        raise NotFoundError(f"preset {self.explain(name)}")

    def pinned(self, name: str, digest: str | None) -> Preset:
        """The preset that a job was submitted with; ``digest`` is the job's, None for one of the catalogue.

        Raises:
            RefusedError: code ``preset_missing`` (not here, or its file is wrong) or ``preset_differs``.
        """
        if name not in self.presets:
            detail = (
                f": {self.explain(name)}" if name in self.problems else self._searched() or " (in the catalogue only)"
            )
            raise RefusedError(f"preset {name!r} is not on this machine{detail}", code="preset_missing")
        preset = self.presets[name]
        if digest is not None and preset.digest != digest:
            raise RefusedError(
                f"preset {name!r} ({self.source(name)}) differs from the one that the job was submitted with: "
                f"its digest is {preset.digest[:12]}, the job's {digest[:12]}",
                code="preset_differs",
            )
        return preset

    def _searched(self) -> str:
        if self.folder is None:
            return ""
        return f" (looked in {self.folder}{'' if self.folder.is_dir() else ', which is not there'})"


def load_library(folder: Path | None) -> Library:
    """The catalogue and the presets of the folder's ``*.toml`` files; a folder that is not there gives none.

    A wrong file takes nothing from the others: its problems are in ``Library.problems``.
    """
    presets: dict[str, Preset] = dict(all_presets())
    files: dict[str, Path] = {}
    problems: dict[str, tuple[Problem, ...]] = {}
    for file in sorted(folder.glob("*.toml")) if folder is not None else ():
        if file.name.startswith("."):
            continue
        preset = read_user_preset(file)
        if isinstance(preset, Preset):
            presets[preset.name] = preset
            files[preset.name] = file
        else:  # a catalogue's name stays the catalogue's; the mistake is shown under the file's own name
            name = file.stem if file.stem not in presets else file.name
            problems[name.encode("utf-8", "backslashreplace").decode()] = preset
    return Library(presets, files, problems, folder)
