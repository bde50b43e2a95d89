"""YAML as data only, built from parser events: no tag can make an object, a large file needs no node tree."""

from __future__ import annotations

from typing import Any

import yaml
from yaml import events

from pipeline.prompts_file.problems import Problems

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it
_PREFIX = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_PREFIX + name for name in ("str", "int", "float", "bool", "null"))
_DEPTH = 16


class _RefusedError(Exception):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def read_yaml_document(
    text: str, problems: Problems
) -> tuple[tuple[int, dict[str, object]] | None, list[tuple[int, object]]]:
    """``(line, defaults)`` or None, and ``(line, value)`` of each prompt; mistakes go to ``problems``."""
    loader: Any = None
    try:
        loader = _Loader(text)
        return _Builder(loader).document()
    except _RefusedError as error:
        problems.add(str(error), line=error.line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add(f"not YAML: {error.problem or error.context}", line=mark.line + 1 if mark else None)
    except yaml.YAMLError as error:
        problems.add(f"not YAML: {error}".splitlines()[0])
    finally:
        if loader is not None:
            loader.dispose()
    return None, []


class _Builder:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def document(self) -> tuple[tuple[int, dict[str, object]] | None, list[tuple[int, object]]]:
        defaults: tuple[int, dict[str, object]] | None = None
        prompts: list[tuple[int, object]] = []
        self._next()  # stream start
        event = self._next()
        if isinstance(event, events.StreamEndEvent):
            return None, []
        top = self._next()
        if isinstance(top, events.ScalarEvent) and not top.value:
            return None, []
        if not isinstance(top, events.MappingStartEvent):
            raise _RefusedError("the file is not a mapping with 'defaults:' and 'prompts:'", _line(top))
        seen: set[str] = set()
        while not isinstance(event := self._next(), events.MappingEndEvent):
            key = self._key(event, seen)
            value = self._next()
            if key == "defaults":
                built = self._value(value, 1)
                if not isinstance(built, dict | None):
                    raise _RefusedError("'defaults' is not a mapping", _line(value))
                defaults = (_line(value), built or {})
            elif key == "prompts":
                prompts = self._prompts(value)
            else:
                raise _RefusedError(f"{key!r} is unknown; the file's keys are 'defaults' and 'prompts'", _line(event))
        self._next()  # document end
        if not isinstance(event := self._next(), events.StreamEndEvent):
            raise _RefusedError("a second document begins; a prompt file has one", _line(event))
        return defaults, prompts

    def _prompts(self, event: Any) -> list[tuple[int, object]]:
        if not isinstance(event, events.SequenceStartEvent):
            raise _RefusedError("'prompts' is not a list", _line(event))
        self._check(event)
        prompts = []
        while not isinstance(item := self._next(), events.SequenceEndEvent):
            prompts.append((_line(item), self._value(item, 2)))
        return prompts

    def _value(self, event: Any, depth: int) -> object:
        self._check(event)
        if depth > _DEPTH:
            raise _RefusedError(f"nested more than {_DEPTH} deep", _line(event))
        if isinstance(event, events.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, events.SequenceStartEvent):
            items = []
            while not isinstance(item := self._next(), events.SequenceEndEvent):
                items.append(self._value(item, depth + 1))
            return items
        result: dict[str, object] = {}
        seen: set[str] = set()
        while not isinstance(item := self._next(), events.MappingEndEvent):
            key = self._key(item, seen)
            result[key] = self._value(self._next(), depth + 1)
        return result

    def _key(self, event: Any, seen: set[str]) -> str:
        self._check(event)
        if not isinstance(event, events.ScalarEvent):
            raise _RefusedError("a key is not plain text", _line(event))
        key = event.value
        if key in seen:
            raise _RefusedError(f"{key[:60]!r} is given twice", _line(event))
        seen.add(key)
        return str(key)

    def _scalar(self, event: Any) -> object:
        tag = event.tag
        if tag in (None, "!"):
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _PREFIX + "str" or tag not in _PLAIN_TAGS:  # dates and the like stay text
            return event.value
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        try:
            return self._loader.yaml_constructors[tag](self._loader, node)
        except (ValueError, KeyError, IndexError, OverflowError):
            raise _RefusedError(f"{event.value[:60]!r} is not a value of the tag {tag}", _line(event)) from None

    def _check(self, event: Any) -> None:
        if isinstance(event, events.AliasEvent) or getattr(event, "anchor", None):
            raise _RefusedError("anchors and aliases are not allowed; use 'defaults:'", _line(event))
        tag = getattr(event, "tag", None)
        collections = (_PREFIX + "map", _PREFIX + "seq")
        if tag not in (None, "!") and tag not in _PLAIN_TAGS and tag not in collections:
            raise _RefusedError(f"tag {tag!r} is not allowed; only plain values are", _line(event))

    def _next(self) -> Any:
        return self._loader.get_event()


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
