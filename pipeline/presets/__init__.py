"""Named, versioned descriptions of models: data in ``catalogue/``, one TOML file each."""

from pipeline.presets.preset import FrameRule, Preset, SizeRule, Workload, all_presets, get_preset

__all__ = ["FrameRule", "Preset", "SizeRule", "Workload", "all_presets", "get_preset"]
