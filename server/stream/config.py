"""The file of ``vgen serve --config``: FastVideo's fields for its streaming server, read as it reads them.

A field that is not known is refused with the nearest that is. One that is known, but has nothing to act on here, is
told in ``ServeFile.notices``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.encoding.live import Mode
from pipeline.errors import InputError, Problem
from pipeline.files.pipes import read_file_or_pipe
from pipeline.files.yaml_reader import YamlError, parse_yaml
from pipeline.nearest import did_you_mean
from pipeline.settings import Settings

MAX_FILE_BYTES = 1024 * 1024


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WarmupConfig(_Part):
    """Workers warm a model up before they take it; nothing of this is read."""

    enabled: bool = True
    prompt: str | None = None
    timeout_seconds: int = Field(2400, ge=1)


class PoolConfig(_Part):
    """The GPUs that sessions may have."""

    num_workers: int | None = Field(None, ge=1, le=10_000, description="Sessions that have a GPU at once.")
    enable_audio_reencode: bool = Field(True, description="Whether the sound that a model makes is sent.")
    conditioning_num_frames: int = 9
    conditioning_end_offset: int = 0


class PromptConfig(_Part):
    """The enhancement of prompts, in place of the settings ``VGEN_ENHANCE_…``."""

    enabled: bool = False
    provider: Literal["cerebras", "groq"] = "cerebras"
    model: str = "gpt-oss-120b"
    timeout_ms: int = Field(20_000, ge=1)
    system_prompt_dir: str | None = None


class SafetyConfig(_Part):
    """The screening of prompts, in place of the settings ``VGEN_SAFETY_…``."""

    enabled: bool = False
    classifier_path: str | None = None


class MockConfig(_Part):
    """How ``--mock`` behaves."""

    step_ms: float = Field(100, ge=0, le=60_000, description="Milliseconds of one step.")


class StoryPreset(_Part):
    """Prompts that Dreamverse's page offers as one story."""

    id: str = Field(min_length=1, max_length=200)
    label: str = Field(min_length=1, max_length=200)
    description: str = ""
    segment_prompts: tuple[str, ...] = Field(min_length=1, max_length=100)


class StreamingConfig(_Part):
    """The ``streaming:`` block. What FastVideo's does not have is added at the end."""

    session_timeout_seconds: int = Field(300, ge=1, le=86_400)
    generation_segment_cap: int = Field(6, ge=1, le=10_000)
    stream_mode: Mode = Mode.AV_FMP4
    warmup: WarmupConfig = WarmupConfig()
    pool: PoolConfig = PoolConfig()
    prompt: PromptConfig = PromptConfig()
    safety: SafetyConfig = SafetyConfig()
    preset: str | None = Field(None, description="The preset of sessions that name none.")
    max_sessions: int = Field(64, ge=1, le=10_000, description="Sessions of this server at once, waiting ones too.")
    silent_audio: bool = Field(False, description="Whether there is a track of silence where a model makes no sound.")
    mock: MockConfig = MockConfig()
    curated_presets: tuple[StoryPreset, ...] = Field((), description="Stories of Dreamverse's page.")


class ServerPart(_Part):
    """Where the server listens; the command line wins."""

    host: str | None = None
    port: int | None = Field(None, ge=0, le=65_535)
    output_dir: str | None = None


class PipelinePart(_Part):
    """The model that is asked for."""

    model_config = ConfigDict(extra="allow", frozen=True)
    preset: str | None = None


class GeneratorPart(_Part):
    """The engine: of it a preset alone is read."""

    model_path: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    engine: dict[str, Any] = Field(default_factory=dict)
    pipeline: PipelinePart = PipelinePart()


class SamplingPart(_Part):
    """What a segment is made with where its message says nothing; the rest of FastVideo's fields is not read."""

    width: int | None = Field(None, ge=16, le=8192)
    height: int | None = Field(None, ge=16, le=8192)
    num_frames: int | None = Field(None, ge=1, le=100_000)
    fps: float | None = Field(None, gt=0, le=240)
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    seed: int | None = Field(None, ge=0)


class RequestPart(_Part):
    """The request on which every segment's is based."""

    prompt: str | None = None
    negative_prompt: str | None = None
    sampling: SamplingPart = SamplingPart()


class _File(_Part):
    generator: GeneratorPart = GeneratorPart()
    server: ServerPart = ServerPart()
    default_request: RequestPart = RequestPart()
    streaming: StreamingConfig | None = None


@dataclass(frozen=True)
class ServeFile:
    """A configuration file that was checked."""

    server: ServerPart = field(default_factory=ServerPart)
    request: RequestPart = field(default_factory=RequestPart)
    streaming: StreamingConfig | None = None
    preset: str | None = None
    notices: tuple[str, ...] = field(default=())
    """What the file says and nothing here acts on, a sentence each."""

    def settings(self, settings: Settings) -> Settings:
        """Return the settings with what the file says of prompts."""
        if self.streaming is None:
            return settings
        update: dict[str, Any] = {}
        prompt, safety = self.streaming.prompt, self.streaming.safety
        if prompt.enabled:
            folder = None if prompt.system_prompt_dir is None else Path(prompt.system_prompt_dir).expanduser()
            update["enhance"] = settings.enhance.model_copy(
                update={
                    "providers": (prompt.provider,),
                    "model": prompt.model,
                    "timeout_s": prompt.timeout_ms / 1000,
                    "system_prompt_dir": folder or settings.enhance.system_prompt_dir,
                }
            )
        if safety.enabled and safety.classifier_path is not None:
            path = Path(safety.classifier_path).expanduser()
            update["safety"] = settings.safety.model_copy(update={"classifier": path})
        return settings.model_copy(update=update)


def read_serve_file(path: Path) -> ServeFile:
    """Read and check a configuration file in YAML.

    Raises:
        InputError: with every mistake; a field that is not known is named with the nearest that is.
    """
    content = read_file_or_pipe(path, what="the configuration", limit_bytes=MAX_FILE_BYTES)
    try:
        data = parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError([Problem("is not UTF-8", str(path))]) from None
    except YamlError as error:
        raise InputError([Problem(f"the configuration cannot be read: {error}", str(path), error.line)]) from None
    if not isinstance(data, dict):
        sections = ", ".join(_File.model_fields)
        raise InputError([Problem(f"is not a mapping of keys to values; the keys are: {sections}", str(path))])
    return serve_file_of(data, name=str(path))


def serve_file_of(data: Mapping[str, Any], *, name: str = "the configuration") -> ServeFile:
    """Return the file that these values are. Raises InputError."""
    if "router" in data:
        message = "`router:` is for `vgen router-serve`, which stands before servers such as this one"
        raise InputError([Problem(message, name, field="router")])
    try:
        checked = _File.model_validate(dict(data))
    except ValidationError as error:
        problems = [_problem(dict(item)) for item in error.errors()]
        raise InputError(problems).in_file(name) from None
    streaming = checked.streaming
    if streaming is not None and streaming.safety.enabled and streaming.safety.classifier_path is None:
        message = "safety is switched on, and classifier_path names no classifier"
        raise InputError([Problem(message, field="streaming.safety.classifier_path")]).in_file(name)
    preset = (streaming.preset if streaming else None) or checked.generator.pipeline.preset
    return ServeFile(checked.server, checked.default_request, streaming, preset, tuple(_notices(checked)))


def _problem(item: Mapping[str, Any]) -> Problem:
    path = [str(part) for part in item["loc"]]
    where = ".".join(path)
    if item["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        hint = did_you_mean(path[-1], known)
        return Problem(f"is not a field of this file: {hint}known fields here are {', '.join(known)}", field=where)
    shown = f"{item['input']!r:.80} " if not isinstance(item.get("input"), dict | list) else ""
    return Problem(f"{shown}is not possible: {str(item['msg']).removeprefix('Value error, ')}", field=where)


def _fields_at(path: list[str]) -> list[str]:
    model: Any = _File
    for part in path:
        annotation = model.model_fields[part].annotation
        choices = [annotation, *getattr(annotation, "__args__", ())]
        model = next(each for each in choices if isinstance(each, type) and issubclass(each, BaseModel))
    return list(model.model_fields)


def _notices(file: _File) -> Iterator[str]:
    unread: dict[str, tuple[str, object]] = {
        "generator.model_path": ("models are presets: name one in streaming.preset", file.generator.model_path),
        "generator.revision": ("a preset names its revision", file.generator.revision),
        "generator.trust_remote_code": ("no code of a model's repository is run", file.generator.trust_remote_code),
        "generator.engine": ("workers read their own settings, VGEN_…", file.generator.engine),
        "generator.pipeline": ("of it the preset alone is read", file.generator.pipeline.model_extra),
        "server.output_dir": ("clips go to VGEN_STORAGE", file.server.output_dir),
        "default_request.prompt": ("a session's client sends its prompts", file.default_request.prompt),
    }
    if file.streaming is not None:
        warmup, pool = file.streaming.warmup, file.streaming.pool
        unread["streaming.warmup"] = ("a worker warms its model up before it takes work", warmup != WarmupConfig())
        given = {"conditioning_num_frames", "conditioning_end_offset"} & pool.model_fields_set
        unread["streaming.pool.conditioning_…"] = ("a preset says what its segments go on from", given)
    for name, (why, value) in unread.items():
        if value:
            yield f"{name} is not read: {why}"
