"""Reads YAML from users: plain data only, in time and memory proportional to its length.

No tag can make an object, no alias can multiply a value, a second equal key is refused, and a plain value longer than
any number is text. So are dates, and numbers to base 60 or 8 (``1:30``, ``010``). A document of any length needs no
tree of nodes.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml import events

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it
_PREFIX = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_PREFIX + name for name in ("str", "int", "float", "bool", "null"))
_COLLECTION_TAGS = frozenset(_PREFIX + name for name in ("map", "seq"))
_TAG_DIRECTIVE = re.compile(r"(?:^|[\n\r\x85\u2028\u2029])%TAG")
_OLD_NUMBER = re.compile(r"[-+]?(?:[0-9_]+:[0-9:_.]*|0[0-9_]+)")
"""``1:30`` and ``010``, which YAML 1.1 reads to base 60 and 8, and nobody who writes them means so: they stay text."""
MAX_DEPTH = 16
MAX_NUMBER_CHARS = 64


class YamlError(ValueError):
    """Text that is not YAML, or breaks a rule of this reader; ``line`` counts from 1, None where it is unknown."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse_yaml(text: str) -> Any:
    """The value of a YAML document: mappings with text as keys, lists, text, numbers, truths and None.

    Raises:
        YamlError: it is not YAML, or has a tag, an anchor, an alias, two equal keys, or a second document.
    """
    with_line = [value for _, value in YamlDocument(text).whole()]
    return with_line[0] if with_line else None


class YamlDocument:
    """One document, read event by event. Every method raises YamlError."""

    def __init__(self, text: str) -> None:
        if _TAG_DIRECTIVE.search(text):  # libyaml compares each with all before it
            raise YamlError("%TAG directives are not allowed; only plain values are")
        try:
            self._loader: Any = _Loader(text)
        except (yaml.YAMLError, UnicodeError) as error:
            raise _translated(error) from None

    def whole(self) -> Iterator[tuple[int, Any]]:
        """``(line, value)`` of the document, nothing for an empty one."""
        event = self.begin()
        if event is not None:
            yield self.line(event), self.value(event, 1)
            self.end()

    def begin(self) -> Any:
        """The first event of the document's value, None where there is no document or an empty one."""
        self.next()  # stream start
        if isinstance(self.next(), events.StreamEndEvent):
            return None
        event = self.next()
        return None if isinstance(event, events.ScalarEvent) and not event.value else event

    def end(self) -> None:
        """The document is the stream's last."""
        self.next()  # document end
        if not isinstance(event := self.next(), events.StreamEndEvent):
            raise YamlError("a second document begins; only one is read", self.line(event))
        self._loader.dispose()

    def items(self, event: Any) -> Iterator[Any]:
        """The first event of each item of a sequence; the caller reads the item."""
        self._check(event)
        while not isinstance(item := self.next(), events.SequenceEndEvent):
            yield item

    def entries(self, event: Any) -> Iterator[tuple[str, int, Any]]:
        """``(key, its line, first event of its value)`` of a mapping; the caller reads the value."""
        self._check(event)
        seen: set[str] = set()
        while not isinstance(key := self.next(), events.MappingEndEvent):
            self._check(key)
            if not isinstance(key, events.ScalarEvent):
                raise YamlError("a key is not plain text", self.line(key))
            if key.value in seen:
                raise YamlError(f"{key.value[:60]!r} is given twice", self.line(key))
            seen.add(key.value)
            yield str(key.value), self.line(key), self.next()

    def value(self, event: Any, depth: int) -> Any:
        """The value that begins with this event; ``depth`` counts the collections around it."""
        self._check(event)
        if depth > MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} deep", self.line(event))
        if isinstance(event, events.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, events.SequenceStartEvent):
            return [self.value(item, depth + 1) for item in self.items(event)]
        return {key: self.value(value, depth + 1) for key, _, value in self.entries(event)}

    def next(self) -> Any:
        try:
            return self._loader.get_event()
        except (yaml.YAMLError, UnicodeError) as error:
            raise _translated(error) from None

    @staticmethod
    def line(event: Any) -> int:
        return int(event.start_mark.line) + 1

    def _scalar(self, event: Any) -> object:
        tag, value = event.tag, event.value
        if tag in (None, "!"):
            if len(value) > MAX_NUMBER_CHARS:
                return value
            if _OLD_NUMBER.fullmatch(value):
                return value
            tag = self._loader.resolve(yaml.ScalarNode, value, event.implicit)
        if tag == _PREFIX + "str" or tag not in _PLAIN_TAGS:  # dates and the like stay text
            return value
        node = yaml.ScalarNode(tag, value, event.start_mark, event.end_mark)
        try:
            if len(value) > MAX_NUMBER_CHARS:
                raise ValueError
            return self._loader.yaml_constructors[tag](self._loader, node)
        except (ValueError, KeyError, IndexError, OverflowError):
            raise YamlError(f"{value[:60]!r} is not a value of the tag {tag}", self.line(event)) from None

    def _check(self, event: Any) -> None:
        if isinstance(event, events.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError("anchors and aliases are not allowed; write the value out", self.line(event))
        tag = getattr(event, "tag", None)
        if tag not in (None, "!") and tag not in _PLAIN_TAGS and tag not in _COLLECTION_TAGS:
            raise YamlError(f"tag {tag[:80]!r} is not allowed; only plain values are", self.line(event))


def _translated(error: Exception) -> YamlError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return YamlError(f"not YAML: {error.problem or error.context}", mark.line + 1 if mark else None)
    if isinstance(error, UnicodeError):
        return YamlError("not YAML: it holds a lone surrogate, which is not a character")
    return YamlError(f"not YAML: {error}".splitlines()[0])
