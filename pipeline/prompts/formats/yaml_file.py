"""``.yaml``: ``defaults:``, a mapping, and ``prompts:``, a list of texts or mappings."""

import re

from yaml import events

from pipeline.files.yaml_reader import YamlDocument, YamlError
from pipeline.prompts.fields import FIELD_RULES
from pipeline.prompts.formats.lines import lines_of
from pipeline.prompts.formats.table import Record, Table
from pipeline.prompts.problems import Problems

_HIDDEN_KEY = re.compile(r"([A-Za-z_0-9]{1,40}):([^\S ])")
"""A key with a blank of a web page behind its colon: for YAML all of it is text, and would be the prompt."""


def read_yaml(data: bytes, problems: Problems) -> Table:
    """The whole file at once: a mistake of its form leaves nothing of it."""
    text = "\n".join(line for _, line in lines_of(data, problems))
    if problems.count:  # with a line left out the numbers of the others would be wrong
        return Table((), iter(()), text=False)
    try:
        defaults, prompts = _document(YamlDocument(text))
    except YamlError as error:
        problems.add(str(error), line=error.line)
        return Table((), iter(()), text=False)
    return Table(defaults, iter(prompts), text=False)


def _document(document: YamlDocument) -> tuple[tuple[Record, ...], list[Record]]:
    defaults: tuple[Record, ...] = ()
    prompts: list[Record] = []
    top = document.begin()
    if top is None:
        return defaults, prompts
    if not isinstance(top, events.MappingStartEvent):
        raise YamlError("the file is not a mapping with 'defaults:' and 'prompts:'", document.line(top))
    for key, line, value in document.entries(top):
        if key == "defaults":
            fields = document.value(value, 1)
            if not isinstance(fields, dict | None):
                raise YamlError("'defaults' is not a mapping", document.line(value))
            defaults = (Record(document.line(value), fields or {}),)
        elif key == "prompts":
            prompts = _prompts(document, value)
        else:
            raise YamlError(f"{key[:60]!r} is unknown; the file's keys are 'defaults' and 'prompts'", line)
    document.end()
    return defaults, prompts


def _prompts(document: YamlDocument, event: object) -> list[Record]:
    if not isinstance(event, events.SequenceStartEvent):
        raise YamlError("'prompts' is not a list", document.line(event))
    prompts = []
    for item in document.items(event):
        value = document.value(item, 2)
        if isinstance(value, str) and (match := _HIDDEN_KEY.match(value)) and match[1].casefold() in FIELD_RULES:
            blank = f"U+{ord(match[2]):04X}"
            raise YamlError(f"after '{match[1]}:' stands {blank}, which is not a plain blank", document.line(item))
        prompts.append(Record(document.line(item), value if isinstance(value, dict) else {"prompt": value}))
    return prompts
