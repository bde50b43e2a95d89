"""Every error that vgen raises on purpose.

    VgenError
    ├── InputError            the user's input is wrong; carries one ``Problem`` per mistake
    ├── SettingsError         a setting has a wrong value
    ├── NotFoundError         no such batch, job, preset or artifact
    │   └── NoSuchRowError    no such batch or job in the database that was asked
    ├── ConflictError         the request contradicts what is stored
    ├── NotInstalledError     an extra of the package is not installed (`pip install 'vgen[generate]'`)
    ├── ServiceUnavailableError a database, broker or store cannot be reached
    ├── SessionRejectedError  no further session may be opened
    ├── GpuUnavailableError   no GPU can be reserved for a session
    └── StageError            a stage could not do its work; ``failure_class`` decides what happens next
        ├── RetryableError    network, throttling, a full disk: try again later
        │   └── SegmentLostError  what an earlier segment left is gone: that one is made again
        ├── RefusedError      the input can never work: never tried again
        ├── OutOfMemoryError  the GPU (or host) had too little memory
        ├── CrashError        the generator's process died
        ├── FatalError        a bug: tried a bounded number of times
        └── StoppedError      asked to stop (cancel, drain, pause): not a failed attempt

Each leaf has a stable ``code`` that is stored with failed attempts and documented in docs/errors.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.redaction import redact


class FailureClass(StrEnum):
    """The meaning of a failed attempt for the next one."""

    RETRYABLE = "retryable"
    """Something outside failed for now: tried again after a backoff."""
    REFUSED = "refused"
    """The input is wrong or blocked: never tried again."""
    OUT_OF_MEMORY = "out_of_memory"
    """Too little memory: tried again a bounded number of times."""
    CRASH = "crash"
    """The process that did the work died."""
    FATAL = "fatal"
    """A bug: a bounded number of tries, then quarantine."""


class VgenError(Exception):
    """Base of all errors that a user can act on. Its text is shown, logged and stored, so it holds no secret."""

    code = "vgen_error"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(value) if isinstance(value, str) else value for value in arguments))


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in an input: where it is, what was given, and which rule it breaks."""

    message: str
    file: str | None = None
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        file = None if self.file is None else _printable(self.file)
        where = ":".join(str(part) for part in (file, self.line) if part is not None)
        # One problem is one line, also where it names a file whose name has a line break.
        message = "\\n".join(self.message.splitlines()) if "\n" in self.message else self.message
        text = f"{_printable(self.field[:100])}: {message}" if self.field else message
        # The name of a file need not be text, and what it is called goes on to JSON and to rows.
        return (f"{where}: {text}" if where else text).encode("utf-8", "backslashreplace").decode()


def _printable(name: str) -> str:
    """A name that somebody gave, so that nothing in it acts on a terminal."""
    return name if name.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)


MAX_PROBLEMS_SHOWN = 60
"""Lines of an ``InputError``'s text; the rest are counted. Nobody reads more before mending the first ones."""


class InputError(VgenError):
    """The user's input is wrong. ``problems`` holds every mistake found, each once."""

    code = "input_invalid"

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = [Problem(line) for line in problems.splitlines() or [""]]
        self.problems: tuple[Problem, ...] = tuple(dict.fromkeys(problems))
        lines = [str(problem) for problem in self.problems[:MAX_PROBLEMS_SHOWN]]
        more = len(self.problems) - len(lines)
        super().__init__("\n".join([*lines, f"and {more} more problems"] if more else lines))

    def in_file(self, name: str) -> InputError:
        """The same, with the file's name where no file is named; a command line's option (``--x``) is in no file."""
        return InputError(
            [
                problem if problem.file or (problem.field or "").startswith("--") else replace(problem, file=name)
                for problem in self.problems
            ]
        )


class SettingsError(VgenError):
    """A setting has a wrong value; the message names the setting, the value and the rule."""

    code = "settings_invalid"


class NotFoundError(VgenError):
    """No such batch, job, preset or artifact."""

    code = "not_found"


class NoSuchRowError(NotFoundError):
    """No such batch or job in the database that was asked; whoever shows it adds which that is."""


class ConflictError(VgenError):
    """The request contradicts what is stored, for example a key that is used for another file."""

    code = "conflict"


class NotInstalledError(VgenError):
    """An extra of the package is needed and not installed; the message has the command that installs it."""

    code = "not_installed"


class ServiceUnavailableError(VgenError):
    """A database, broker or store cannot be reached; the message says which and where."""

    code = "service_unavailable"


class QuotaError(VgenError):
    """A key asks for more than it may have in a day, or ever.

    ``retry_after_s`` says when it may have it; None: never as it was asked for.
    """

    code = "insufficient_quota"

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyAtOnceError(QuotaError):
    """A key has as many jobs open as it may have."""

    code = "rate_limit_exceeded"


class SessionRejectedError(VgenError):
    """No further session may be opened: its owner has as many as one may have."""

    code = "session_rejected"


class GpuUnavailableError(VgenError):
    """No GPU can be reserved for a session: none is there that fits, or sessions may have none."""

    code = "gpu_unavailable"


class StageError(VgenError):
    """A stage could not do its work."""

    code = "stage_failed"
    failure_class = FailureClass.FATAL

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class RetryableError(StageError):
    """Something outside failed for now: network, throttling, a full disk."""

    code = "temporarily_unavailable"
    failure_class = FailureClass.RETRYABLE


class SegmentLostError(RetryableError):
    """Files that an earlier segment left are gone or damaged: ``segment`` (from 0) is made again."""

    def __init__(self, message: str, *, code: str, segment: int) -> None:
        super().__init__(message, code=code)
        self.segment = segment


class RefusedError(StageError):
    """The input can never work; the message names the field, the value and the rule."""

    code = "refused"
    failure_class = FailureClass.REFUSED


class OutOfMemoryError(StageError):
    """The GPU or the host had too little memory for this job."""

    code = "out_of_memory"
    failure_class = FailureClass.OUT_OF_MEMORY


class CrashError(StageError):
    """The process that did the work died; the message has its exit status."""

    code = "generator_crashed"
    failure_class = FailureClass.CRASH


class FatalError(StageError):
    """An unexpected error, with its type and message: most likely a bug."""

    code = "unexpected_error"


class StoppedError(StageError):
    """The stage was asked to stop (cancel, drain, pause). It is not a failed attempt.

    ``keep`` is True where what was done so far is worth keeping: at a drain and a pause, not at a cancel.
    """

    code = "stopped"

    def __init__(self, message: str, *, code: str | None = None, keep: bool = False) -> None:
        super().__init__(message, code=code)
        self.keep = keep
