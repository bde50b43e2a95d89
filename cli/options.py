"""Options that several commands share, as dataclasses: each field becomes an option."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from cli import completion
from pipeline.errors import InputError, Problem
from service.choices import SubmissionChoices
from service.labels import label_of

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document; see docs/json-output.md.")]
BatchArgument = Annotated[
    str,
    typer.Argument(
        metavar="BATCH", help="A batch's id, the start of one, or 'latest'.", autocompletion=completion.batches_here
    ),
]
Gpu = Annotated[bool, typer.Option("--gpu/--no-gpu", help="Start a GPU worker for each GPU of this host.")]
Cpu = Annotated[bool, typer.Option("--cpu/--no-cpu", help="Start a worker that screens and encodes.")]
Io = Annotated[bool, typer.Option("--io/--no-io", help="Start a worker that enhances, publishes and dispatches.")]
PromptsArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A .txt, .jsonl, .csv or .yaml prompt file; - for standard input; or one prompt, quoted."
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the batch has ended, and exit with its exit code.")]


def takes(**groups: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace parameters that are dataclasses by one option for each of their fields."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        parameters, annotations = [], {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name in groups:
                group = groups[parameter.name]
                for field in dataclasses.fields(group):
                    hint = get_type_hints(group, include_extras=True)[field.name]
                    parameters.append(
                        inspect.Parameter(
                            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hint
                        )
                    )
                    annotations[field.name] = hint
            else:
                hint = hints[parameter.name]
                parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
                annotations[parameter.name] = hint

        @functools.wraps(function)
        def wrapper(**values: Any) -> Any:
            for name, group in groups.items():
                values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
            return function(**values)

        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = annotations
        del wrapper.__wrapped__  # or its annotations would be read instead
        return wrapper

    return decorate


def _field(flag: str, text: str, metavar: str = "VALUE", complete: Any = None) -> Any:
    return typer.Option(flag, help=text, metavar=metavar, autocompletion=complete)


@dataclasses.dataclass(frozen=True)
class FieldOptions:
    """Fields of jobs by diffusers' names. They are text here: the prompt file's parser checks them."""

    negative_prompt: Annotated[str | None, _field("--negative-prompt", "What the clip should not show.")] = None
    seed: Annotated[str | None, _field("--seed", "One seed for every line.")] = None
    seeds: Annotated[str | None, _field("--seeds", "Several seeds, such as 1-4 or 1,2,5-7; each makes a job.")] = None
    num_frames: Annotated[str | None, _field("--num-frames", "Number of frames, as the preset allows.")] = None
    seconds: Annotated[str | None, _field("--seconds", "Length of the clip, instead of --num-frames.")] = None
    width: Annotated[str | None, _field("--width", "Pixels, as the preset allows.")] = None
    height: Annotated[str | None, _field("--height", "Pixels, as the preset allows.")] = None
    size: Annotated[str | None, _field("--size", "WIDTHxHEIGHT, instead of --width and --height.")] = None
    fps: Annotated[str | None, _field("--fps", "Frames per second.")] = None
    num_inference_steps: Annotated[str | None, _field("--num-inference-steps", "Denoising steps.")] = None
    guidance_scale: Annotated[str | None, _field("--guidance-scale", "How strictly the prompt is followed.")] = None
    guidance_scale_2: Annotated[
        str | None,
        _field("--guidance-scale-2", "Guidance scale of the second denoising stage, for models that have two."),
    ] = None
    image: Annotated[str | None, _field("--image", "Input image: a path, a URL or data:image/…;base64,….")] = None
    last_image: Annotated[str | None, _field("--last-image", "The clip's last frame; needs --image.")] = None
    video: Annotated[str | None, _field("--video", "Input video: a path or a URL.")] = None
    reference_image: Annotated[
        list[str] | None, _field("--reference-image", "Reference image: a path, a URL or a data: URL; repeatable.")
    ] = None
    preset: Annotated[
        str | None, _field("--preset", "Preset; `vgen models list` shows them.", complete=completion.presets_here)
    ] = None
    gpu: Annotated[str | None, _field("--gpu", "GPU types that may make the clips, separated by commas.")] = None
    priority: Annotated[str | None, _field("--priority", "-100 to 100; higher runs first.")] = None
    label: Annotated[
        list[str] | None, _field("--label", "A label of the jobs; repeatable.", "NAME=VALUE", completion.labels_here)
    ] = None
    acceleration: Annotated[
        str | None, _field("--acceleration", "Options for speed or memory, such as vae_tiling,step_cache=first_block.")
    ] = None
    lora: Annotated[
        list[str] | None,
        _field("--lora", "A LoRA: FILE@SCALE, or ORG/NAME:FILE@SCALE from the hub; repeatable.", "LORA"),
    ] = None
    segments: Annotated[str | None, _field("--segments", "Number of segments of each clip.", "COUNT")] = None
    auto_extend: Annotated[
        bool | None,
        typer.Option("--auto-extend/--no-auto-extend", help="Let the enhancer write each next segment's prompt."),
    ] = None
    enhance: Annotated[
        bool | None, typer.Option("--enhance/--no-enhance", help="Whether a language model enhances the prompts.")
    ] = None

    def overrides(self) -> dict[str, object]:
        """The fields that were given, for the parser. Raises InputError for a label that is not name=value."""
        fields: dict[str, object] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("label", "reference_image", "lora") and getattr(self, field.name) is not None
        }
        for name in ("image", "last_image", "video"):
            if name in fields:
                fields[name] = _from_here(str(fields[name]))
        if self.reference_image:
            fields["reference_images"] = [_from_here(value) for value in self.reference_image]
        if self.lora:
            fields["lora"] = _loras_from_here(self.lora)
        if self.label:
            fields["labels"] = _labels(self.label)
        return fields


def _from_here(value: str) -> str:
    """On the command line people mean the current folder, in a file the file's."""
    return value if value.startswith(("data:", "http:", "https:")) else str(Path(value).absolute())


def _loras_from_here(values: list[str]) -> str:
    from pipeline.prompts.loras import with_absolute_path

    return ",".join(with_absolute_path(value, Path.cwd()) for value in values)


def _labels(pairs: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        name, value = label_of(pair)
        if value is None:
            raise InputError([Problem(f"{pair!r} is not of the form name=value", field="--label")])
        labels[name] = value
    return labels


def checked_owner(owner: str | None) -> str | None:
    """Return the value of an option ``--owner``. Raises InputError."""
    from pipeline.names import check_owner

    try:
        return check_owner(owner) if owner else None
    except ValueError as error:
        raise InputError([Problem(str(error), field="--owner")]) from None


@dataclasses.dataclass(frozen=True)
class BatchChoices(SubmissionChoices):
    """The options of a whole batch."""

    owner: Annotated[
        str | None,
        typer.Option("--owner", callback=checked_owner, help="The owner of the batch; default: the setting owner."),
    ] = None
    name: Annotated[str | None, typer.Option("--name", help="Name of the batch; default: the file's name.")] = None
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            help="Submission key: a second submission with this key adds nothing. Default: a digest of the content.",
        ),
    ] = None
    again: Annotated[bool, typer.Option("--again", help="Make a new batch even if the same was submitted.")] = False
    reuse: Annotated[
        bool | None,
        typer.Option(
            "--reuse/--no-reuse",
            help="Leave out jobs that an earlier batch of this file has made "
            "or begun; default: --reuse for a file, else --no-reuse.",
        ),
    ] = None
    safety_policy: Annotated[
        str | None, typer.Option("--safety-policy", help="closed, open or hold; default: the setting safety.policy.")
    ] = None
    codec: Annotated[str | None, typer.Option("--codec", help="FFmpeg encoder; default: the setting.")] = None
    quality: Annotated[int | None, typer.Option("--quality", help="CRF, lower is better; default: the setting.")] = None
    score: Annotated[
        str | None,
        typer.Option(
            "--score",
            metavar="METRICS",
            help="Score each clip before it is published: metrics or groups, separated by commas.",
        ),
    ] = None
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="RULE", help="Publish only clips that pass this rule: checks, or NAME>=0.5; repeatable."
        ),
    ] = None
    reroll: Annotated[
        int | None,
        typer.Option("--reroll", help="How often a rejected clip is made again, each time with another seed; 0 to 20."),
    ] = None
    by: Annotated[
        str | None, typer.Option("--by", metavar="TIME", help="Deadline: 07:00, 2026-03-01T07:00 or +3h.")
    ] = None
    max_gpu_hours: Annotated[
        float | None,
        typer.Option("--max-gpu-hours", help="Budget: stop sending work to GPUs after this many GPU hours."),
    ] = None
    max_cost: Annotated[float | None, typer.Option("--max-cost", help="Budget by cost; needs the setting prices.")] = (
        None
    )
