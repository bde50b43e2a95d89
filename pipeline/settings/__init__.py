"""The settings and their sources: arguments > ``VGEN_*`` > ``.env`` > ``vgen.toml`` > the user's file > defaults."""

from pipeline.settings.groups import (
    EncodeSettings,
    EnhanceSettings,
    EvalSettings,
    FetchSettings,
    NightlySettings,
    S3Settings,
    SafetySettings,
    WorkerSettings,
)
from pipeline.settings.loading import current_settings, load_settings, notices_of
from pipeline.settings.schema import Settings

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
