"""The request of a clip that is made only to measure a preset, without a job."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import InputError, Problem
from pipeline.generators.base import GenerationRequest
from pipeline.generators.frames_file import frames_size
from pipeline.presets import Library, Workload
from pipeline.spec import JobSpec

PROMPT = "A red fox runs through fresh snow at dawn, the camera follows it"


def probe_request(
    library: Library,
    name: str,
    folder: Path,
    *,
    prompt: str = PROMPT,
    seed: int = 0,
    image: Path | None,
    **changes: Any,
) -> GenerationRequest:
    """A plain clip of the preset's defaults; ``changes`` of the job's fields that are None are left out.

    The frames' file is reserved in ``folder`` under a fixed name.

    Raises:
        NotFoundError, InputError: no such preset; or it makes no picture, needs an image, or cannot make such a clip.
    """
    preset = library.get(name)
    problems = []
    if preset.generator == "idle":
        problems.append(Problem(f"{name!r} makes no picture: nothing can be measured", field="preset"))
    if preset.workload is Workload.I2V and image is None:
        problems.append(Problem(f"is required by preset {name!r} (image to video)", field="--image"))
    if preset.required_inputs or preset.workload is Workload.V2V:
        problems.append(Problem(f"{name!r} needs inputs besides an image, so it cannot be measured", field="preset"))
    values = {
        **preset.defaults.model_dump(),
        "prompt": prompt,
        "seed": seed,
        "preset": name,
        "preset_digest": library.digest(name),
        **{field: value for field, value in changes.items() if value is not None},
    }
    problems += [
        Problem(
            f"{values[side]} cannot be made by preset {name!r}; nearest: {_list(preset.size.nearest(values[side]))}",
            field=side,
        )
        for side in ("width", "height")
        if not preset.size.allows(values[side])
    ]
    if not preset.frames.allows(frames := values["num_frames"]):
        nearest = _list(preset.frames.nearest(frames))
        problems.append(Problem(f"{frames} cannot be made by preset {name!r}; nearest: {nearest}", field="num_frames"))
    try:
        spec = JobSpec.model_validate(values)
    except ValidationError as error:
        problems += [Problem(f"{item['input']!r}: {item['msg']}", field=str(item["loc"][0])) for item in error.errors()]
    if problems:
        raise InputError(problems)
    folder.mkdir(parents=True, exist_ok=True)
    frames_path = folder / "trial.rgb"
    with frames_path.open("wb") as file:
        file.truncate(frames_size(spec))
    return GenerationRequest(spec=spec, prompt=prompt, frames_path=frames_path, image=image)


def _list(values: list[int]) -> str:
    return " or ".join(map(str, values))
