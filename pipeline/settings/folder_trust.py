"""The settings that files of the current folder may set, when nobody said that the folder is trusted.

Somebody else may have made the folder: a repository that was cloned, an archive that was unpacked. Both belong to the
user by then, so owner and mode say nothing. Its ``.env`` and ``vgen.toml`` may choose how clips are made; they may not
choose who gets keys, prompts or clips, where code and weights come from, or what is removed. docs/settings.md shows the
table; docs/decisions/0014 says why it is this one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

SettingPath = tuple[str, ...]
"""The path of a setting: its name, after the name of its group if it is in one."""


class Rule(StrEnum):
    """The condition on which a setting of an untrusted folder's file counts. Those without a rule always do."""

    NEVER = "never"
    INSIDE = "for places inside the folder"
    NO_HOST = "for providers without a base URL"
    UNSCREENED = "where neither the environment nor your own file sets any of `[safety]`"


_WHERE = "it decides where rows, clips, prompts or keys go"
_CODE = "it decides where code, weights or presets come from"
_REMOVES = "it decides what is removed"
RULES: dict[SettingPath, tuple[Rule, str]] = {
    ("trusted_folders",): (Rule.NEVER, "a folder cannot vouch for itself"),
    ("umask",): (Rule.NEVER, "it decides who may read your files"),
    ("database_url",): (Rule.NEVER, _WHERE),
    ("database_listen_url",): (Rule.NEVER, _WHERE),
    ("broker_url",): (Rule.NEVER, _WHERE),
    ("stream", "chunks_url"): (Rule.NEVER, _WHERE),
    ("storage",): (Rule.INSIDE, _WHERE),
    ("home",): (Rule.INSIDE, _WHERE),
    ("handoff_dir",): (Rule.INSIDE, _WHERE),
    ("cache_dir",): (Rule.NEVER, _CODE),
    ("presets_dir",): (Rule.NEVER, _CODE),
    ("eval", "weights_dir"): (Rule.NEVER, _CODE),
    ("input_roots",): (Rule.INSIDE, "it decides which files may be read as inputs"),
    ("enhance", "system_prompt_dir"): (Rule.INSIDE, "it decides which files are sent to providers"),
    ("nightly", "suite"): (Rule.INSIDE, "it decides which files may be read"),
    ("fetch", "networks"): (Rule.NEVER, "it opens networks that are not public"),
    ("enhance", "providers"): (Rule.NO_HOST, "it decides which hosts get your keys and prompts"),
    ("s3", "endpoint_url"): (Rule.NEVER, _WHERE),
    ("s3", "public_endpoint_url"): (Rule.NEVER, _WHERE),
    ("s3", "access_key_id"): (Rule.NEVER, _WHERE),
    ("s3", "secret_access_key"): (Rule.NEVER, _WHERE),
    ("safety", "classifier"): (Rule.UNSCREENED, "it decides what is screened"),
    ("safety", "threshold"): (Rule.UNSCREENED, "it decides what is screened"),
    ("safety", "policy"): (Rule.UNSCREENED, "it decides what is screened"),
    ("retention", "days"): (Rule.NEVER, _REMOVES),
    ("retention", "history_days"): (Rule.NEVER, _REMOVES),
    ("retention", "sessions_days"): (Rule.NEVER, _REMOVES),
    ("retention", "inputs_days"): (Rule.NEVER, _REMOVES),
    ("serve", "redirect"): (Rule.NEVER, "it decides who gets addresses of the store"),
    ("serve", "public_pages"): (Rule.NEVER, "it decides who sees clips and prompts"),
    ("serve", "public_url"): (Rule.NEVER, "it decides where links lead"),
    ("serve", "flower_url"): (Rule.NEVER, "it decides where links lead"),
    ("sweep", "orphan_age_h"): (Rule.NEVER, _REMOVES),
    ("sweep", "checkpoint_age_h"): (Rule.NEVER, _REMOVES),
}
_SEPARATORS = {("input_roots",): ":", ("enhance", "providers"): ","}


def is_trusted(folder: Path, trusted: Iterable[object]) -> bool:
    """Return whether one of the trusted folders is this one, links resolved. Those below a trusted folder are not."""
    real_folder = os.path.realpath(folder)
    return any(os.path.realpath(Path(_home_expanded(str(path)))) == real_folder for path in trusted)


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path, by its links, leads out of the folder."""
    own = os.path.realpath(folder)
    return os.path.commonpath((own, os.path.realpath(path))) != own


def objection(path: SettingPath, value: object, folder: Path, site: Mapping[str, Any]) -> str | None:
    """Return why a file of this untrusted folder may not set this; None when it may.

    ``site`` holds what the environment and the user's own file set, groups as mappings.
    """
    rule, reason = RULES.get(path, (None, ""))
    if rule is None:
        return None
    items = _items(path, value)
    if rule is Rule.INSIDE and all(_inside(item, folder) for item in items):
        return None
    if rule is Rule.NO_HOST and not any("=" in item or "://" in item for item in items):
        return None
    if rule is Rule.UNSCREENED and not site.get("safety"):
        return None
    return reason


def _items(path: SettingPath, value: object) -> list[str]:
    if isinstance(value, list | tuple):
        return [str(item).strip() for item in value]
    separator = _SEPARATORS.get(path)
    return [part.strip() for part in str(value).split(separator)] if separator else [str(value).strip()]


def _inside(text: str, folder: Path) -> bool:
    """Return whether the path stays in the folder, links resolved; a URL never does."""
    if "://" in text or "\0" in text:
        return False
    real_folder = os.path.realpath(folder)
    target = os.path.realpath(Path(real_folder, _home_expanded(text)))
    return os.path.commonpath((real_folder, target)) == real_folder


def _home_expanded(text: str) -> str:
    return os.path.expanduser(text)  # noqa: PTH111 - pathlib raises for a name that no user has
