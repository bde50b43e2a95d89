"""Named, versioned descriptions of models: data in ``catalogue/`` and in a user's folder, one TOML file each."""

from pipeline.presets.library import CATALOGUE_SOURCE, Library, load_library
from pipeline.presets.preset import Continuation, Preset, Workload, all_presets, get_preset
from pipeline.presets.rules import FrameRule, SizeRule

__all__ = [
    "CATALOGUE_SOURCE",
    "Continuation",
    "FrameRule",
    "Library",
    "Preset",
    "SizeRule",
    "Workload",
    "all_presets",
    "get_preset",
    "load_library",
]
