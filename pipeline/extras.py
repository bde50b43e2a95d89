"""The parts of vgen that are installed separately, as pip extras: which one has a missing module.

What each extra brings is said once, in pyproject.toml, and read here from the installed package's metadata.
"""

import re
from importlib import metadata

from pipeline.errors import NotInstalledError

GENERATE, EVAL, SERVE = "generate", "eval", "serve"
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+).*;\s*extra\s*==\s*["']([a-z]+)["']""")
_DISTRIBUTIONS = {"fasttext": "fasttext-predict"}
"""Distributions that are not called as their module is."""
_ORDER = (GENERATE, SERVE, EVAL, "quantised")
"""The extra that is named where several bring a module."""


def require(*extras: str, purpose: str) -> None:
    """Check that all of the extras are installed, without importing them.

    Raises:
        NotInstalledError: one is not; the message says for which purpose, and the command that installs it.
    """
    brought = _distributions()
    missing = [name for name in extras if any(not _installed(item) for item in brought.get(name, ()))]
    if missing:
        raise NotInstalledError(_sentence(purpose, missing))


def installed() -> dict[str, bool]:
    """Each extra that a user may want, and whether all that it brings is installed."""
    brought = _distributions()
    return {name: all(_installed(item) for item in brought[name]) for name in _ORDER if name in brought}


def missing_module(name: str, *, purpose: str, prefer: str | None = None) -> NotInstalledError | None:
    """The error to show for a module that cannot be imported; None where no extra brings it: then that is a bug."""
    module = name.partition(".")[0]
    distribution = _normal(_DISTRIBUTIONS.get(module, module))
    brought = _distributions()
    order = _ORDER if prefer is None else (prefer, *_ORDER)
    extra = next((extra for extra in order if distribution in brought.get(extra, ())), None)
    return None if extra is None else NotInstalledError(_sentence(f"{purpose} needs {module}, which", [extra]))


def _sentence(subject: str, extras: list[str]) -> str:
    names = ",".join(sorted(extras))
    return f"{subject} is not installed here: pip install 'vgen[{names}]'"


def _distributions() -> dict[str, frozenset[str]]:
    """The distributions of each extra; nothing where vgen runs without being installed."""
    try:
        requirements = metadata.requires("vgen") or []
    except metadata.PackageNotFoundError:
        return {}
    brought: dict[str, set[str]] = {}
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement)
        if match is not None:
            brought.setdefault(match[2], set()).add(_normal(match[1]))
    return {extra: frozenset(names - {"vgen"}) for extra, names in brought.items()}


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
