"""The version of vgen, with the commit where it runs from a checkout."""

import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHOWN = 12


@cache
def software_version() -> str:
    """Such as ``0.1.0`` or ``0.1.0, commit 4f34e71a8f7a``."""
    commit = checked_out_commit(_ROOT)
    return version("vgen") + (f", commit {commit[:_SHOWN]}" if commit else "")


def checked_out_commit(root: Path) -> str | None:
    """The commit of the checkout whose top folder this is, read from git's own files; None where it is none."""
    try:
        folder = root / ".git"
        if folder.is_file():  # of a further work tree
            folder = root / folder.read_text("utf-8").strip().removeprefix("gitdir: ")
        common = folder / "commondir"
        shared = folder / common.read_text("utf-8").strip() if common.is_file() else folder
        head = (folder / "HEAD").read_text("utf-8").strip()
        if not head.startswith("ref: "):
            return head if _COMMIT.fullmatch(head) else None
        ref = head.removeprefix("ref: ")
        for place in (folder / ref, shared / ref):
            if place.is_file():
                return _found(place.read_text("utf-8").strip())
        for line in (shared / "packed-refs").read_text("utf-8").splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return _found(commit)
    except (OSError, UnicodeDecodeError):
        return None
    return None


def _found(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None
