"""The fields of a request under every spelling that clients have, as the fields of a prompt file.

A field that cannot be kept is refused by name: a parameter that does nothing is worse than an error. No value is
changed to one that can be made.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from pipeline.errors import Problem
from pipeline.files.json_reader import JsonError, parse_json
from pipeline.nearest import did_you_mean
from pipeline.presets import Library, Preset, Workload, load_library
from pipeline.prompts.numbers import flag, show, whole
from pipeline.settings import Settings
from server.errors import ApiError, plain
from server.openai.field_names import (
    ACCEPTED,
    BATCH_CHOICES,
    COUNTS,
    GENERAL_REFERENCES,
    IGNORED,
    JSON_TEXT,
    MAX_N,
    NESTED,
    OPENAI_NAMES,
    OVERRIDING,
    PROMPT_FILE_FIELDS,
    QUALITIES,
    QUALITY,
    REFUSED,
    SHAPES,
    SPELLINGS,
    SWITCHES,
    WITH_SOUND,
)
from server.openai.loras import lora_list
from server.openai.references import ClipFile, reference
from server.openai.shapes import size_of
from service.choices import SubmissionChoices


@dataclass
class Asked:
    """What a request asks for: the fields of each job, and the choices for their batch."""

    preset: str
    jobs: list[dict[str, object]]
    choices: SubmissionChoices
    notices: list[str]
    spelled: dict[str, str]
    """The client's name of each field."""
    folders: tuple[str, ...] = ()
    """The server's folders."""

    def refusal(self, problems: Sequence[Problem]) -> ApiError:
        """The answer that names every mistake as the client calls it; ``param`` is the first one's."""
        named = [(self._name(item.field), self._told(item.message)) for item in problems]
        return _refusal([_Mistake(name, message) for name, message in dict.fromkeys(named)])

    def said(self, sentences: Sequence[str]) -> list[str]:
        """Sentences on the request as its client may read them: it has no lines, and no folders of the server."""
        return [self._told(sentence.removeprefix("line 1: ")) for sentence in sentences]

    def _name(self, name: str | None) -> str | None:
        if name is None:
            return None
        plain = name.removeprefix("--").replace("-", "_")  # as it is called outside of a command line
        if plain in ("width", "height") and plain not in self.spelled and "size" in self.spelled:
            plain = "size"
        return self.spelled.get(plain, OPENAI_NAMES.get(plain, plain))

    def _told(self, message: str) -> str:
        """A message without the server's folders, which are nobody's business."""
        for folder in sorted(self.folders, key=len, reverse=True):
            message = message.replace(f"{folder}/", "").replace(folder, "the server's folder")
        return plain(message)


@dataclass(frozen=True, slots=True)
class _Mistake:
    name: str | None
    message: str
    code: str = "invalid_value"


@dataclass
class _Reader:
    """One request on its way from a client's fields to a prompt file's."""

    settings: Settings
    library: Library
    clip_file: ClipFile
    files: Mapping[str, object]
    lenient: bool
    values: dict[str, object] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    labels: dict[str, object] = field(default_factory=dict)
    preset: Preset | None = None
    choices: dict[str, object] = field(default_factory=dict)
    mistakes: list[_Mistake] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def give(self, name: str, value: object, spelling: str) -> None:
        """Take a value; a second spelling of the same field must say the same."""
        if name in self.values and _text(self.values[name]) != _text(value):
            self.wrong(spelling, f"{show(value)} contradicts {self.spelled[name]}, {show(self.values[name])}")
            return
        self.values[name], self.spelled[name] = value, spelling

    def wrong(self, name: str | None, message: str, code: str = "invalid_value") -> None:
        self.mistakes.append(_Mistake(name, message, code))

    def checked(self, name: str, parse: Callable[[], object]) -> object:
        """The parsed value; None where it is wrong, which is noted."""
        try:
            return parse()
        except ValueError as error:
            self.wrong(name, str(error))
            return None


def read_fields(
    raw: Mapping[str, object],
    *,
    settings: Settings,
    clip_file: ClipFile,
    files: Mapping[str, object],
    owner: str,
    lenient: bool = False,
    most: int = MAX_N,
) -> Asked:
    """Return what the fields ask for.

    Args:
        clip_file: the name of the file of a finished video, by the video's id.
        files: names of the request's own files.
        lenient: fields that nobody knows are left out and told, not refused.
        most: the number of videos that may be asked for.

    Raises:
        ApiError: 400, with every mistake that can be told without the preset's rules.
    """
    library = load_library(settings.effective_presets_dir)
    reader = _Reader(settings, library, clip_file, files, lenient)
    given = {name: value for name, value in _merged(raw, reader).items() if value is not None and value != ""}
    reader.preset = _preset(given, reader)
    for name, value in given.items():
        _read(name, value, reader)
    if reader.preset is not None and set(SHAPES) & given.keys():
        _shape(given, reader.preset, reader)
    count = _count(given, most, reader)
    if reader.labels:
        spelling = next(name for name in ("labels", "metadata", "user") if name in given)
        reader.give("labels", {**cast("dict[str, object]", reader.values.pop("labels", {})), **reader.labels}, spelling)
    if reader.mistakes:
        raise _refusal(reader.mistakes)
    jobs = _copies(reader.values, count, reader)
    options = replace(SubmissionChoices(owner=owner), **reader.choices)  # type: ignore[arg-type]
    return Asked(
        str(reader.values.get("preset", settings.preset)),
        jobs,
        options,
        reader.notices,
        reader.spelled,
        _folders(settings),
    )


def _merged(raw: Mapping[str, object], reader: _Reader) -> dict[str, object]:
    """One level of fields, of which those within mappings are a part."""
    fields = {name: _parsed(name, value, reader) for name, value in raw.items()}
    merged = {name: value for name, value in fields.items() if name not in (*OVERRIDING, *NESTED)}
    for container in (*NESTED, *OVERRIDING):
        inner = fields.get(container)
        if inner is None or inner == "":
            continue
        if not isinstance(inner, dict):
            reader.wrong(container, f"{show(inner)} is not a valid mapping: give a JSON object of fields")
            continue
        for name, value in inner.items():
            if name in (*OVERRIDING, *NESTED):
                reader.wrong(f"{container}.{name}", "is not read within another mapping")
            elif container in NESTED and name in merged and _text(merged[name]) != _text(value):
                reader.wrong(name, f"{show(value)} in {container} contradicts {show(merged[name])} beside it")
            else:
                merged[name] = _parsed(name, value, reader)
    return merged


def _parsed(name: str, value: object, reader: _Reader) -> object:
    """JSON text as what it says, in fields that hold mappings or lists, and in references."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    is_reference = SPELLINGS.get(name) in ("image", "video") or name == "last_image"
    if name not in JSON_TEXT and not is_reference:
        return value
    try:
        return parse_json(value)
    except JsonError as error:
        reader.wrong(name, f"is not valid JSON: {error}")
        return None


def _preset(given: Mapping[str, object], reader: _Reader) -> Preset | None:
    spelling = "preset" if "preset" in given and "model" not in given else "model"
    name = given.get(spelling, reader.settings.preset)
    preset = reader.library.presets.get(name) if isinstance(name, str) else None
    if preset is None:
        near = did_you_mean(name, reader.library.presets)
        reader.wrong(spelling, f"{show(name)} is not a model of this server; {near}GET /v1/models lists them")
    return preset


def _read(name: str, value: object, reader: _Reader) -> None:
    target = SPELLINGS.get(name, name)
    if name in GENERAL_REFERENCES and reader.preset is not None and reader.preset.workload is Workload.V2V:
        target = "video"
    if name in REFUSED or name.startswith("rollout"):
        reader.wrong(name, REFUSED.get(name, "is not available"), "unsupported_parameter")
    elif name in IGNORED:
        reader.notices.append(f"{name} {IGNORED[name]}")
    elif (special := _SPECIAL.get(name)) is not None:
        special(name, value, reader)
    elif target in ("image", "video", "last_image"):
        given_as = reader.checked(name, lambda: reference(value, target == "video", reader.clip_file))
        if given_as is not None:
            reader.give(target, given_as, name)
    elif target in PROMPT_FILE_FIELDS:
        reader.give(target, value, name)
    elif name not in (*COUNTS, *SHAPES):
        _unknown(name, reader)


def _switch(name: str, value: object, reader: _Reader) -> None:
    preset, on = reader.preset, reader.checked(name, lambda: flag(value, True))
    has_sound = name == "generate_sound" and preset is not None and preset.pipeline_class in WITH_SOUND
    if on is not None and on != has_sound:
        message = f"cannot be switched off: {preset.name}'s model makes it" if has_sound and preset else SWITCHES[name]
        reader.wrong(name, message, "unsupported_parameter")


def _pictures(name: str, value: object, reader: _Reader) -> None:
    items = value if isinstance(value, list) else [value]
    reader.give(name, reader.checked(name, lambda: [reference(item, False, reader.clip_file) for item in items]), name)


def _loras(name: str, value: object, reader: _Reader) -> None:
    reader.give("loras", reader.checked(name, lambda: lora_list(value, reader.files)), name)


def _size(name: str, value: object, reader: _Reader) -> None:
    if str(value).strip().lower() != "auto":
        reader.give(name, value, name)


def _task(name: str, value: object, reader: _Reader) -> None:
    preset = reader.preset
    if preset is not None and str(value).strip().lower() != preset.workload.value:
        reader.wrong(name, f"{show(value)} contradicts the model: {preset.name} is {preset.workload.value}")


def _unknown(name: str, reader: _Reader) -> None:
    near = did_you_mean(name, ACCEPTED).strip()
    message = " ".join(["is not a parameter of this server", f"({near.rstrip('?')}?)" if near else ""]).strip()
    if reader.lenient:
        reader.notices.append(f"{name[:80]} {message}: left out")
    else:
        reader.wrong(name[:80], message, "unknown_parameter")


def _shape(given: Mapping[str, object], preset: Preset, reader: _Reader) -> None:
    """Width and height of a ratio and a short edge."""
    first = next(name for name in SHAPES if name in given)
    size = reader.checked(first, lambda: size_of(given.get("aspect_ratio"), given.get("short_edge"), preset))
    if size is None:
        return
    width, height = cast("tuple[int, int]", size)
    own = {name: reader.values[name] for name in ("size", "width", "height") if name in reader.values}
    wanted = {"width": width, "height": height, "size": f"{width}x{height}"}
    for name, value in own.items():
        if str(value).strip().lower().replace(" ", "") != str(wanted[name]):
            reader.wrong(name, f"{show(value)} contradicts {first}, which makes it {wanted[name]}")
    if not own:
        reader.give("size", wanted["size"], first)


def _count(given: Mapping[str, object], most: int, reader: _Reader) -> int:
    numbers: dict[str, int] = {}
    for name in given.keys() & set(COUNTS):
        try:
            numbers[name] = cast(int, whole(1, most)(given[name], True))
        except ValueError as error:
            reader.wrong(name, str(error) if most > 1 else f"{show(given[name])} is not possible here: only 1 is")
    if len(set(numbers.values())) > 1:
        reader.wrong(min(numbers), f"{' and '.join(sorted(numbers))} contradict each other")
    return max(numbers.values(), default=1)


def _quality(name: str, value: object, reader: _Reader) -> None:
    word = str(value).strip().lower()
    crf = QUALITIES.get(word)
    if word not in QUALITIES:
        try:
            crf = cast(int, whole(0, 63)(value, True))
        except ValueError:
            reader.wrong(
                name, f"{show(value)} is not a valid quality: use {', '.join(QUALITIES)} or a CRF from 0 to 63"
            )
            return
    if reader.choices.setdefault("quality", crf) != crf:
        reader.wrong(name, "quality and output_quality contradict each other")


def _choice(name: str, value: object, reader: _Reader) -> None:
    if name == "reroll":
        reader.choices[name] = reader.checked(name, lambda: whole(0, 20)(value, True))
        return
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items) or (name == "codec" and len(items) > 1):
        reader.wrong(name, f"{show(value)} is not text" if name == "codec" else f"{show(value)} is not a list of texts")
        return
    reader.choices[name] = items if name == "gate" else ",".join(cast("list[str]", items))


def _label(name: str, value: object, reader: _Reader) -> None:
    if name == "user":
        reader.labels["user"] = value
    elif isinstance(value, dict):
        reader.labels |= value
    else:
        reader.wrong(name, f"{show(value)} is not a valid mapping: give names and texts")


_SPECIAL: dict[str, Callable[[str, object, _Reader], None]] = {
    **dict.fromkeys(SWITCHES, _switch),
    **dict.fromkeys(QUALITY, _quality),
    **dict.fromkeys(BATCH_CHOICES, _choice),
    **dict.fromkeys(("metadata", "user"), _label),
    **dict.fromkeys(("lora", "loras"), _loras),
    "reference_images": _pictures,
    "size": _size,
    "task": _task,
}
"""Fields that are read by a rule of their own."""


def _copies(values: Mapping[str, object], count: int, reader: _Reader) -> list[dict[str, object]]:
    """The fields of each of the jobs: a given seed is the first one's, and the others follow it."""
    if count == 1:
        return [dict(values)]
    jobs = []
    for number in range(count):
        job = dict(values)
        if "seed" in values:
            first = reader.checked(reader.spelled["seed"], lambda: whole(0, 2**63 - count)(values["seed"], True))
            if reader.mistakes:
                raise _refusal(reader.mistakes)
            job["seed"] = cast(int, first) + number
        if "custom_id" in values:
            job["custom_id"] = f"{values['custom_id']}.{number}"
        jobs.append(job)
    return jobs


def _folders(settings: Settings) -> tuple[str, ...]:
    folders = (*settings.folders.values(), settings.effective_presets_dir, Path(tempfile.gettempdir()))
    return tuple(str(folder) for folder in folders)


def _text(value: object) -> str:
    """A value as forms and JSON both would have it, to compare spellings."""
    return str(value).strip().lower()


def _refusal(mistakes: Sequence[_Mistake]) -> ApiError:
    lines = [f"{item.name}: {item.message}" if item.name else item.message for item in mistakes]
    return ApiError(400, "\n".join(lines), code=mistakes[0].code, param=mistakes[0].name)
