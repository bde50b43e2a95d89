"""The settings and their sources: arguments > ``VGEN_*`` > ``.env`` > ``vgen.toml`` > defaults."""

from pipeline.settings.schema import (
    EncodeSettings,
    EnhanceSettings,
    EvalSettings,
    FetchSettings,
    NightlySettings,
    S3Settings,
    SafetySettings,
    Settings,
    WorkerSettings,
    current_settings,
    load_settings,
    notices_of,
)

__all__ = [
    "EncodeSettings",
    "EnhanceSettings",
    "EvalSettings",
    "FetchSettings",
    "NightlySettings",
    "S3Settings",
    "SafetySettings",
    "Settings",
    "WorkerSettings",
    "current_settings",
    "load_settings",
    "notices_of",
]
