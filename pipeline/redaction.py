"""No secret in what people read: one function for messages, logs and shown settings.

It knows secrets in two ways. By form: whatever a URL holds besides scheme, host and path is masked, also where an
unescaped ``@``, ``/``, ``?`` or ``#`` of a password makes the URL mean something else to a parser. By value: the
secrets of this process, wherever they stand.
"""

import copy
import logging
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MASK = "***"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}://"
_URL = re.compile(rf"{_SCHEME}(?:(?![\s\"'<>`|]|[;,]\s*{_SCHEME}).)*", re.DOTALL)
_WHOLE_URL = re.compile(rf"{_SCHEME}(?:(?![;,|]\s*{_SCHEME}).)*", re.DOTALL)
"""The same for a text that is nothing but URLs, whose secrets may hold blanks and quotes."""
_NAMES_A_USER = re.compile(r"(?:postgres|mysql|redis|amqp|pyamqp|sentinel|mongodb)", re.IGNORECASE)
"""Schemes of services where the user is a role's name; elsewhere it may be a token."""
_USER = re.compile(r"[A-Za-z0-9._-]{0,32}")
_QUERY_NAME = re.compile(r"[a-z][a-z_-]{0,31}")
_ENDS_AUTHORITY = re.compile(r"[/?#]")
_HOST = re.compile(r"(?:[^\s@:\[\]]*|\[[^\]@]*\])(?::\d*)?")
_HARMLESS = frozenset({"sslmode", "uri", "ssl_cert_reqs", "connect_timeout", "application_name"})
_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "sslrootcert", "sslcert", "sslkey"})
"""Names of files, which are no secrets; what is in them is."""
_HARMLESS_VALUE = re.compile(r"[A-Za-z0-9._-]{0,32}")
_FILE_NAME = re.compile(r"[A-Za-z0-9._/%~ -]{0,200}")
_NAMED = re.compile(
    r"""(\b[\w-]{0,40}(?:password|passwd|secret|api[_-]?key|access[_-]?key|requirepass)[\w-]{0,40}"""
    r"""(?:["']\s{0,3}:|\s{0,3}=)\s{0,3})("[^"]*"|'[^']*'|[^\s,;&)"']+)""",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\s\"'<>`|]+")
_USER_AND_PASSWORD = re.compile(r"[:\uff1a]\S")
_KEY = re.compile(r"\b(vgen_sk_[a-z0-9]{1,16}_)\w{8,}")
"""A key of ours: its id may be known."""
_BEARER = re.compile(r"\b(Bearer|Basic)\s{1,3}[\w.~+/=-]{8,}", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(?:PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|ACCESS_KEY|BASIC_AUTH|KEY_[A-Z0-9_]+)$")
_SHORTEST, _LONGEST_WORD = 8, 15
"""Shorter secrets, and such as could be a word, are not looked for by value: they would mask parts of messages."""
_OUR_PACKAGES = frozenset({"pipeline", "db", "tasks", "service", "server", "cli", "vgen"})
_OF_EVERY_RECORD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName", "task_id", "task_name"}
"""What a record has besides ``extra``, or gets from formatters: Celery's name the task."""
_known: set[str] = set()


def redact(text: str) -> str:
    """The text without secrets: those of its URLs, those after a name such as ``password=``, those of this process."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, MASK)
    if "://" in text or "@" in text:
        text = "".join(_shown_parts(text))
    text = _KEY.sub(rf"\1{MASK}", text)
    return _NAMED.sub(rf"\1{MASK}", _BEARER.sub(rf"\1 {MASK}", text))


def shown_setting(value: str) -> str:
    """A setting's value for people; one that holds URLs is nothing but URLs, and may hold blanks."""
    if not _URL.search(value):
        return redact(value)
    name, equals, entry = value.partition("=")
    if equals and re.fullmatch(r"[A-Za-z][\w-]*", name) and "@" not in entry and "?" not in entry:
        address, sharp, model = entry.partition("#")  # a provider: name=base_url#model
        return f"{name}={_WHOLE_URL.sub(lambda match: _shown(match[0]), address)}{sharp}{model}"
    return _WHOLE_URL.sub(lambda match: _shown(match[0]), value)


def shown_url(url: str) -> str:
    """A URL for messages and rows: without user, query and fragment, where secrets are.

    Where the authority is not a host, a ``/``, ``?`` or ``#`` of a password ended it too soon: all up to the last ``@``
    is the user.
    """
    scheme, separator, address = url.partition("://")
    authority = _ENDS_AUTHORITY.split(address, maxsplit=1)[0]
    if "@" in address and not _HOST.fullmatch(authority):
        user = authority if _HOST.fullmatch(authority.rpartition("@")[2]) else address
        address = address[user.rindex("@") + 1 :]
    return f"{scheme}{separator}{address.split('?', 1)[0].split('#', 1)[0]}"[:200]


def _shown(url: str) -> str:
    scheme, _, address = url.partition("://")
    user, at, place = address.rpartition("@")
    if "?" in user or "#" in user:  # in a password, or of a query that holds an @: the rest may be secret, too
        return f"{scheme}://{MASK}"
    place, sharp, _ = place.partition("#")
    place, question, query = place.partition("?")
    name, colon, _ = user.partition(":")
    is_name = colon and _NAMES_A_USER.match(scheme) and _USER.fullmatch(name)
    shown_user = f"{name if is_name else ''}{':' if is_name else ''}{MASK}@" if at else ""
    shown_query = f"?{_shown_query(query)}" if question else ""
    return f"{scheme}://{shown_user}{place}{shown_query}{f'#{MASK}' if sharp else ''}"


def _is_harmless(name: str, value: str) -> bool:
    known, rule = (_FILES, _FILE_NAME) if name.lower() in _FILES else (_HARMLESS, _HARMLESS_VALUE)
    return name.lower() in known and rule.fullmatch(value) is not None


def _shown_parts(text: str) -> Iterator[str]:
    """The text's URLs, and what stands between them."""
    at = 0
    for match in _URL.finditer(text):
        yield _WORD.sub(lambda word: _without_user(word[0]), text[at : match.start()])
        yield _shown(match[0])
        at = match.end()
    yield _WORD.sub(lambda word: _without_user(word[0]), text[at:])


def _without_user(text: str) -> str:
    """An address whose scheme is missing or misspelt (``redis:/user:password@host``), without what stands before its
    host; any other text as it is."""
    user, at, place = text.rpartition("@")
    return f"{MASK}@{place}" if at and _USER_AND_PASSWORD.search(user) and not place.startswith(" ") else text


def _shown_query(query: str) -> str:
    parts = []
    for part in re.split(r"([&;])", query):
        name, equals, value = part.partition("=")
        if part in ("&", ";", "") or (equals and _is_harmless(name, value)):
            parts.append(part)
        else:
            parts.append(f"{name}={MASK}" if equals and _QUERY_NAME.fullmatch(name) else MASK)
    return "".join(parts)


def remember(settings: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
    """Look for these secrets in all that this process shows from now on: of the settings' values (groups as mappings,
    secrets as text), and of the environment's variables that are named like one."""
    _known.update(_forms(_secrets_of(settings)))
    _known.update(_forms(value for name, value in environ.items() if _SECRET_NAME.search(name.upper())))
    _known.update(_forms(environ.get("VGEN_FLOWER_BASIC_AUTH", "").partition(":")[2:]))


def _secrets_of(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _secrets_of(value)
        elif name in ("access_key_id", "secret_access_key"):
            yield str(value)
        else:
            for text in value if isinstance(value, list | tuple) else (value,):
                if isinstance(text, str) and "://" in text:
                    yield from _secrets_in(text)


def _secrets_in(text: str) -> Iterator[str]:
    """Yield the parts of a URL that may be secrets."""
    for match in _WHOLE_URL.finditer(text):
        user, at, place = match[0].partition("://")[2].rpartition("@")
        if at:
            yield user.partition(":")[2] or user
        for part in re.split(r"[&;]", place.partition("?")[2].partition("#")[0]):
            name, _, value = part.partition("=")
            if not (name.lower() in _HARMLESS or _is_harmless(name, value)):
                yield value


def _forms(secrets: Iterable[str]) -> Iterator[str]:
    """Each secret as it is, and as libraries show it once they have read it from a URL, or written it into one."""
    for secret in secrets:
        for form in {secret, urllib.parse.unquote(secret), urllib.parse.quote(secret, safe=""), repr(secret)[1:-1]}:
            value = form.strip()
            is_word = value.isalpha() and value.islower() and len(value) <= _LONGEST_WORD
            if len(value) >= _SHORTEST and not is_word:
                yield value


class RedactingFormatter(logging.Formatter):
    """Shows what another formatter makes of a record, details and traceback included, without secrets."""

    def __init__(self, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._inner.format(_with_details(record)))


def _with_details(record: logging.LogRecord) -> logging.LogRecord:
    """A record of ours whose message ends with what its logger was given as ``extra``; any other as it is."""
    if record.name.partition(".")[0] not in _OUR_PACKAGES:  # others' details are for their own formatters
        return record
    details = [f"{name}={_one_word(value)}" for name, value in vars(record).items() if name not in _OF_EVERY_RECORD]
    shown = copy.copy(record)
    shown.msg, shown.args = " ".join([record.getMessage(), *details]), None
    return shown


def _one_word(value: object) -> str:
    """The value, quoted where it would not end at the next blank, or would begin another line."""
    text = str(value)
    return text if re.fullmatch(r"[!-~]+", text) else repr(text)


def redact_logs(logger: logging.Logger | None = None) -> None:
    """Have every handler of a logger (default: the root) show no secrets."""
    for handler in (logger or logging.getLogger()).handlers:
        if not isinstance(handler.formatter, RedactingFormatter):
            handler.setFormatter(RedactingFormatter(handler.formatter))
