"""The files that settings come from: ``.env``, and ``vgen.toml`` of the current folder and of the user."""

import codecs
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.errors import SettingsError

ENV_FILE = ".env"
TOML_FILE = "vgen.toml"
MAX_BYTES = 1024 * 1024
MAX_REFERENCES, MAX_FILLED_CHARS = 100, 65_536
"""Of one value with ``${NAME}``: such a value may stand in the next one, and what is read grows with their product."""
_OTHER_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_TOML_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_TOML_KEY = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*([.=])""")
_TOML_TABLE = re.compile(r"""\s*\[\s*["']?([A-Za-z0-9_-]+)["']?\s*\]""")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One ``NAME=value`` of a ``.env``; ``name`` is None where the line is not one."""

    name: str | None
    value: str | None
    line: int
    text: str


def user_toml(environ: Mapping[str, str]) -> Path:
    """The user's own file, by the XDG base directory specification."""
    base = environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if base.startswith("/") else Path(os.path.expanduser("~")) / ".config"  # noqa: PTH111 - never raises
    return folder / "vgen" / TOML_FILE


def current_folder() -> Path:
    """The current folder; one without any file where it was removed meanwhile."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.devnull)


def read_text(path: Path) -> str | None:
    """The text of a settings file; None when it is not there, or not a file.

    Raises:
        SettingsError: it cannot be read, is too large, or its encoding is not UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{path}: is larger than {MAX_BYTES} bytes: a settings file is short")
    for mark, encoding in _OTHER_BOMS:
        if data.startswith(mark):
            raise SettingsError(f"{path}: is {encoding}: save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: is not UTF-8: save it as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise SettingsError(f"{path}:{line}: holds a NUL character: save it as UTF-8 text")
    return text


def read_toml(path: Path) -> tuple[dict[str, Any], str] | None:
    """The tables of a TOML file, and its text; None when it is not there.

    Raises:
        SettingsError: it is not TOML, with the line; or as ``read_text``.
    """
    text = read_text(path)
    if text is None:
        return None
    try:
        return tomllib.loads(text), text
    except RecursionError:
        raise SettingsError(f"{path}: is not a settings file: its tables are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError is one; a number of thousands of digits is another
        reason = str(error)
        place = _TOML_LINE.search(reason)
        line = f":{place[1] or text.count(chr(10)) + 1}" if place else ""
        raise SettingsError(f"{path}{line}: is not valid TOML: {_TOML_LINE.sub('', reason)}") from None


def toml_line(text: str, path: tuple[str, ...]) -> int | None:
    """The line where a TOML file sets this; None when it is unknown."""
    table: str | None = None
    multiline: str | None = None
    first_of_table: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if multiline is not None:
            multiline = None if multiline in line else multiline
            continue
        if header := _TOML_TABLE.match(line):
            table = header[1]
            if table == path[0]:
                first_of_table = first_of_table or number
        elif key := _TOML_KEY.match(line):
            name = key[1] or key[2] or key[3] or ""
            if (table, name) == (path[0], path[-1]) and len(path) > 1:
                return number
            remainder = line[key.end() :].lstrip(" \"'")
            is_whole = len(path) == 1 or key[4] == "=" or remainder.startswith(path[-1])  # name = { … } or name.key = …
            if table is None and name == path[0] and is_whole:
                return number
        multiline = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), None)
    return first_of_table


def read_env_file(path: Path, environ: Mapping[str, str]) -> list[Assignment] | None:
    """The assignments of a ``.env``; None when it is not there.

    ``${NAME}`` is filled from ``environ`` and from the lines before.

    Raises:
        SettingsError: as ``read_text``.
    """
    text = read_text(path)
    return None if text is None else list(_assignments(path, text, environ))


def _is_short(value: str) -> bool:
    return value.count("${") <= MAX_REFERENCES and len(value) <= MAX_FILLED_CHARS


def _assignments(path: Path, text: str, environ: Mapping[str, str]) -> Iterator[Assignment]:
    from dotenv.parser import parse_stream  # noqa: PLC0415 - most starts have no such file
    from dotenv.variables import parse_variables  # noqa: PLC0415

    values: dict[str, str | None] = {}
    for binding in parse_stream(StringIO(text)):
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:blank].count("\n")
        if binding.error:
            yield Assignment(None, None, line, binding.original.string.strip())
        elif binding.key is not None:
            value = binding.value
            if value is not None and "${" in value:
                atoms = tuple(parse_variables(value)) if _is_short(value) else ()
                # The file's own lines win over the environment, as in python-dotenv.
                value = "".join(atom.resolve({**environ, **values})[: MAX_FILLED_CHARS + 1] for atom in atoms)
                if not atoms or len(value) > MAX_FILLED_CHARS:
                    raise SettingsError(
                        f"{path}:{line}: {binding.key}: a value with ${{NAME}} may have {MAX_REFERENCES} of them "
                        f"and {MAX_FILLED_CHARS} characters, filled in, at most"
                    )
            values[binding.key] = value
            yield Assignment(binding.key, value, line, binding.original.string.strip())
