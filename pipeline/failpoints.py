"""Failpoints: named points in the code at which a process can be made to fail, for tests of faults.

``VGEN_FAILPOINTS`` holds entries separated by ``;``::

    POINT[:WHAT]=ACTION[:ARGUMENT][@NTH][%PROBABILITY[/SEED]][!FILE]

``after_claim:generate=kill@3`` kills the process at its third claim of a generate step. WHAT is a stage where the point
has one (for ``denoise_step`` the seed, for ``upload`` the kind of file, for ``score_clip`` the model family, for
``gpu_memory`` denoise or decode, with _tiled and _offloaded behind it where that is on); without it all count. Hits
are counted in each process for itself. With ``!FILE`` the entry acts once for all processes that share that file's
path: whoever creates it. ``@FILE`` in place of entries: they are in that file, which is read again whenever it changes.
Unset costs one comparison with None.

Actions: ``kill`` (SIGKILL to the process), ``killgroup`` (to its process group: a worker with its pool and what that
started), ``stop`` (SIGSTOP to the group), ``exit[:STATUS]``, ``raise[:NAME]`` (of builtins or ``pipeline.errors``, or
a dotted path), ``sleep:SECONDS``, ``enospc`` (the error of a full disk), ``leak:MEBIBYTES`` (memory never freed).
"""

import contextlib
import errno
import os
import random
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

from pipeline import errors

VARIABLE = "VGEN_FAILPOINTS"

POINTS: Mapping[str, str] = {
    "after_claim": "a step is claimed, its work not begun",
    "before_work": "its lease is renewed, its stage about to begin",
    "after_work": "the stage has done its work, nothing is recorded",
    "after_finish": "the finish is committed, the next link not sent",
    "dispatch_committed": "steps are dispatched, their messages not published",
    "dispatch_sent": "the first message of several is published",
    "lease_ending": "the reconciler is about to end expired leases",
    "frames_reserve": "room for frames is about to be reserved",
    "frames_write": "the generator's child writes a frame",
    "denoise_step": "the idle generator's child has done a denoising step",
    "gpu_memory": "the diffusers generator's child is about to need memory",
    "encode_write": "the video is encoded, its pictures are not",
    "upload": "an object is about to be uploaded",
    "checkpoint_upload": "a checkpoint is about to be uploaded",
    "after_upload": "every object of a clip is uploaded, no row says so",
    "score_clip": "a clip of an evaluation run is about to be scored",
    "publish_verified": "every object was found whole, the artifacts' rows are not written",
}
"""Every point: what has happened when it is reached."""

_ENTRY = re.compile(
    r"(?P<point>\w+)(?::(?P<what>\w+))?=(?P<action>[a-z]+)(?::(?P<argument>[\w.]+))?"
    r"(?:@(?P<nth>\d+))?(?:%(?P<chance>[\d.]+)(?:/(?P<seed>\d+))?)?(?:!(?P<file>.+))?"
)
_ACTIONS = frozenset({"kill", "killgroup", "stop", "exit", "raise", "sleep", "enospc", "leak"})
_leaked: list[bytes] = []


@dataclass
class Failpoint:
    """One entry, and how often it was reached in this process."""

    point: str
    what: str | None
    action: str
    argument: str | None
    nth: int | None
    chance: float
    seed: int
    file: str | None
    hits: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    def reached(self, what: str) -> None:
        """Count, and act when it is this entry's turn."""
        if self.what not in (None, what):
            return
        self.hits += 1
        is_turn = self.nth in (None, self.hits) and (self.chance >= 1.0 or self._dice.random() < self.chance)
        if is_turn and (self.file is None or _made_first(self.file)):
            self._act()

    def _act(self) -> None:
        match self.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "killgroup":
                os.killpg(os.getpgrp(), signal.SIGKILL)
            case "stop":
                os.killpg(os.getpgrp(), signal.SIGSTOP)
            case "exit":
                os._exit(int(self.argument or 1))
            case "sleep":
                time.sleep(float(self.argument or 0))
            case "leak":
                _leaked.append(b"\1" * (int(self.argument or 0) * 1024 * 1024))
            case "enospc":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"failpoint {self.point}")
            case _:
                raise _error_class(self.argument or "RuntimeError")(f"failpoint {self.point}")


def _made_first(file: str) -> bool:
    try:
        Path(file).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _error_class(name: str) -> type[Exception]:
    """The exception of that name. Raises SettingsError when there is none."""
    places = [""] if "." in name else ["builtins.", "pipeline.errors."]
    for place in places:
        with contextlib.suppress(ImportError, AttributeError, ValueError):
            error_class = resolve_name(f"{place}{name}")
            if isinstance(error_class, type) and issubclass(error_class, Exception):
                return error_class
    raise errors.SettingsError(f"{VARIABLE}: raise:{name}: there is no such exception")


def _check_error(name: str) -> None:
    """Check like ``_error_class``, but only look for a library that this process has not loaded (torch)."""
    package = name.partition(".")[0]
    if "." not in name or package in sys.modules or find_spec(package) is None:
        _error_class(name)


def parse(text: str) -> dict[str, list[Failpoint]]:
    """The entries by point.

    Raises:
        SettingsError: an entry is malformed, or names no point, action or exception; the message says which.
    """
    failpoints: dict[str, list[Failpoint]] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        item = _failpoint(entry)
        failpoints.setdefault(item.point, []).append(item)
    return failpoints


def _failpoint(entry: str) -> Failpoint:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise errors.SettingsError(
            f"{VARIABLE}: {entry!r} is not POINT[:WHAT]=ACTION[:ARGUMENT], with @NTH, %PROBABILITY[/SEED] or !FILE"
        )
    point, what, action, argument, nth, chance, seed, file = match.groups()
    for name, kind, known in ((point, "a failpoint", POINTS), (action, "an action", sorted(_ACTIONS))):
        if name not in known:
            raise errors.SettingsError(f"{VARIABLE}: {entry!r}: {name!r} is not {kind}; use one of: {', '.join(known)}")
    try:
        if action in ("sleep", "leak") or (action == "exit" and argument):
            float(argument or "nothing")
        share = float(chance or 1.0)
    except ValueError:
        raise errors.SettingsError(f"{VARIABLE}: {entry!r}: {action} takes a number, chances are 0 to 1") from None
    if action == "raise":
        _check_error(argument or "RuntimeError")
    return Failpoint(point, what, action, argument, int(nth) if nth else None, share, int(seed or 0), file)


class Plan:
    """The entries in force; those of a file are read again when it changes, and their hits counted anew."""

    def __init__(self, text: str) -> None:
        self._file = Path(text[1:]) if text.startswith("@") else None
        self._stamp: tuple[int, int] | None = None
        self._entries = {} if self._file else parse(text)
        self.entries()

    def entries(self) -> Mapping[str, list[Failpoint]]:
        """Return the entries by point. Raises SettingsError for a file that is not a plan; a missing file is empty."""
        if self._file is not None:
            try:
                stat = self._file.stat()
                stamp = (stat.st_mtime_ns, stat.st_ino)
                if stamp != self._stamp:
                    self._entries, self._stamp = parse(self._file.read_text("utf-8")), stamp
            except FileNotFoundError:
                self._entries, self._stamp = {}, None
        return self._entries


_plan: Plan | None = None
_problem: errors.SettingsError | None = None
try:
    _plan = Plan(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
except errors.SettingsError as error:  # reported by `require_valid`, not by a traceback at import
    _problem = error


def hit(point: str, what: str = "") -> None:
    """A named point is reached; ``what`` is the stage, where there is one. Does what the plan says, mostly nothing."""
    if _plan is None:
        return
    for item in _plan.entries().get(point, ()):
        item.reached(what)


def require_valid() -> None:
    """Raises SettingsError when the variable does not hold a plan."""
    if _problem is not None:
        raise _problem
