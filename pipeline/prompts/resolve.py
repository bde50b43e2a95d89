"""Applies a preset to a job: defaults for missing fields, rules for given ones."""

from typing import cast

from pipeline.presets import FrameRule, Library, Preset, SizeRule, Workload, abilities
from pipeline.prompts.acceleration import Given, resolved
from pipeline.prompts.call import call_mistakes
from pipeline.prompts.layers import Values
from pipeline.prompts.segments import check_segments, split_length
from pipeline.prompts.submission import TEMPLATE_FIELDS, Template
from pipeline.spec import InputRef, LoraRef

Mistake = tuple[str, str]
"""A field's name and what is wrong with it."""

Loras = tuple[LoraRef, ...]

_CACHE_SIZE = 4096
"""Files have few distinct templates; a file where every line differs must not fill the memory."""

_MAX_HINTS = 50
"""Unknown presets of a file for which the nearest known one is looked for."""
_INPUT_FIELDS = (*TEMPLATE_FIELDS, "seconds", "extends")


class Resolver:
    """Turns merged values into templates; equal values are looked at once and share one template."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._known: dict[tuple[object, ...], tuple[Template, tuple[Mistake, ...]]] = {}
        self._unknown = 0

    def resolve(self, values: Values) -> tuple[Template, tuple[Mistake, ...]]:
        """The job's template, and every rule of the preset that it breaks (the template is then of no use)."""
        key = tuple([values.get(name) for name in _INPUT_FIELDS])
        cached = self._known.get(key)
        if cached is None:
            if len(self._known) >= _CACHE_SIZE:
                self._known.clear()
            cached = self._known[key] = _resolve(values, self._library, hints=self._unknown < _MAX_HINTS)
            self._unknown += not cached[0]
        return cached


def _resolve(values: Values, library: Library, *, hints: bool) -> tuple[Template, tuple[Mistake, ...]]:
    name = str(values["preset"])
    preset = library.presets.get(name)
    if preset is None:
        return (), (("preset", library.explain(name, hints=hints)),)
    mistakes: list[Mistake] = []
    full: Values = {
        **preset.defaults.model_dump(),
        "image": None,
        "last_image": None,
        "video": None,
        "reference_images": (),
        "segments": 1,
        "segment_prompts": (),
        "auto_extend": False,
        "seam_frames": 0,
        "loras": (),
        **values,
        "preset_digest": library.digest(name),
        "random_weights": preset.random_weights and name in library.files,
    }
    full["num_frames"] = _frames(values, full, preset, mistakes)
    for side in ("width", "height"):
        _check_side(side, cast(int, full[side]), preset, mistakes)
    mistakes += _check_inputs(full, preset)
    mistakes += check_segments(full, preset)
    wrong_fields = {field for field, _ in mistakes}
    mistakes += [(field, text) for field, text in call_mistakes(full, preset, library) if field not in wrong_fields]
    full["acceleration"] = accelerated = resolved(
        preset,
        cast("Given | None", values.get("acceleration")),
        cast("tuple[str, ...]", full["gpu"]),
        library,
        mistakes,
    )
    loras = abilities.no_loras(preset, cast("Loras", full["loras"]), accelerated)
    mistakes += [("loras", sentence) for sentence in loras]
    return tuple([full[field] for field in TEMPLATE_FIELDS]), tuple(mistakes)


def _check_inputs(full: Values, preset: Preset) -> list[Mistake]:
    name, workload, problems = preset.name, preset.workload, []
    begins = full.get("extends") is None  # a clip that goes on from frames of another needs no input to begin with
    if workload is Workload.I2V and full["image"] is None and begins:
        problems.append(("image", f"is required by preset {name!r} (image to video)"))
    if workload is Workload.T2V and full["image"] is not None:
        problems.append(("image", f"is given, but preset {name!r} takes text only"))
    if workload is Workload.V2V and full["image"] is not None:
        problems.append(("image", f"is given, but preset {name!r} takes a video"))
    accepted = {*preset.inputs, *(("video",) if workload is Workload.V2V else ())}
    for field in ("last_image", "video", "reference_images"):
        if full[field] and field not in accepted:
            problems.append((field, f"is given, but preset {name!r} ({preset.pipeline_class}) takes none"))
        if not full[field] and field in preset.required_inputs and begins:
            problems.append((field, f"is required by preset {name!r}"))
    if full["last_image"] is not None and full["image"] is None:
        problems.append(("last_image", "is given without image; the first frame is needed too"))
    video = cast("InputRef | None", full["video"])
    if not begins and any(full[field] for field in ("image", "last_image", "video", "reference_images")):
        problems.append(("extends", "cannot be given with an input, which describes a whole clip"))
    if video is None and workload is Workload.V2V and begins:
        problems.append(("video", f"is required by preset {name!r} (video to video)"))
    if video is not None and video.num_frames is not None and video.num_frames < cast(int, full["num_frames"]):
        problems.append(("video", f"has {video.num_frames} frames, the clip {full['num_frames']}"))
    return problems


def _frames(values: Values, full: Values, preset: Preset, mistakes: list[Mistake]) -> int:
    """The frame count. From seconds: seconds × fps to the nearest frame, or, for a model that counts a first frame on
    top (4k + 1), that many plus its offset, so that 5 s at 16 fps are Wan's 81 frames."""
    rule, fps = preset.frames, cast(float, full["fps"])
    frames = cast(int, full["num_frames"])
    field, length = "num_frames", f"{frames}"
    if "seconds" in values:
        seconds = cast(float, values["seconds"])
        plain = round(seconds * fps)
        derived = plain + rule.offset if not rule.allows(plain) and rule.allows(plain + rule.offset) else plain
        if "num_frames" in values and frames != derived:
            mistakes.append(
                ("seconds", f"{seconds:g} s at {fps:g} fps are {derived} frames, but num_frames is {frames}; give one")
            )
            return frames
        field, length, frames = "seconds", f"{seconds:g} s at {fps:g} fps, {derived} frames,", derived
    split = split_length(values, preset, frames)
    if split is None and "seconds" in values:
        split = split_length(values, preset, frames + rule.offset)
    if split is not None:
        frames, full["segments"] = split
    if not rule.allows(frames):
        near = " or ".join(_with_seconds(n, fps, field) for n in rule.nearest(frames))
        mistakes.append(
            (field, f"{length} cannot be made by preset {preset.name!r} ({_frame_rule(rule)}); nearest: {near}")
        )
    return frames


def _with_seconds(frames: int, fps: float, field: str) -> str:
    return f"{frames} ({frames / fps:g} s)" if field == "seconds" else str(frames)


def _frame_rule(rule: FrameRule) -> str:
    form = "any number" if rule.multiple == 1 else f"{rule.multiple}k + {rule.offset}"
    return f"{form}, {rule.minimum} to {rule.maximum}"


def _check_side(side: str, pixels: int, preset: Preset, mistakes: list[Mistake]) -> None:
    rule: SizeRule = preset.size
    if not rule.allows(pixels):
        near = " or ".join(str(n) for n in rule.nearest(pixels))
        mistakes.append(
            (
                side,
                f"{pixels} cannot be made by preset {preset.name!r} "
                f"(multiples of {rule.multiple}, {rule.minimum} to {rule.maximum}); nearest: {near}",
            )
        )
