"""The settings and their sources: arguments > ``VGEN_*`` > ``.env`` > ``vgen.toml`` > the user's file > defaults.

What the files of an untrusted folder may set is in ``pipeline.settings.folder_trust``. A field of a group is set by
``VGEN_<GROUP>_<FIELD>`` or in the group's table of ``vgen.toml``: ``VGEN_S3_ENDPOINT_URL`` and ``[s3] endpoint_url``
are the same. docs/settings.md lists every one; a test compares.
"""

from __future__ import annotations

import getpass
import ipaddress
import math
import os
import urllib.parse
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.errors import SettingsError
from pipeline.names import check_gpu_type, check_owner
from pipeline.redaction import redact, remember, shown_setting
from pipeline.settings.broker_url import parse_broker_url
from pipeline.settings.folder_trust import is_trusted
from pipeline.settings.project import DATABASE_NAME, HOME_NAME, project_folder
from pipeline.settings.sources import expanded, gather, variable

MEBIBYTE = 1024 * 1024
_LARGEST = 1e12
"""The largest number that is not of bytes: more seconds than anybody waits, and no overflow in milliseconds."""


class _NormalisedModel(BaseModel):
    """The base of every group and of the settings: it tidies a value, whatever source it came from."""

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, values: Any) -> Any:
        return expanded(cls, values) if isinstance(values, Mapping) else values

    @field_validator("*", mode="wrap")
    @classmethod
    def _refuse_unknown_settings(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("holds a NUL character")
        result = check(value)
        paths = result if isinstance(result, tuple) else (result,)
        if any(isinstance(path, Path) and str(path).startswith("~") for path in paths):
            raise ValueError("begins with ~ and a name that no user of this machine has")
        if isinstance(result, float) and not -_LARGEST < result < _LARGEST:
            raise ValueError(f"must be a number below {_LARGEST:g}")
        return result


class _Group(_NormalisedModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class S3Settings(_Group):
    """How to reach the S3-compatible store when ``storage`` is an ``s3://`` URL. Keys come from boto3's own chain."""

    endpoint_url: str | None = Field(None, description="Endpoint of an S3-compatible store; unset means AWS.")
    public_endpoint_url: str | None = Field(
        None, description="Endpoint written into presigned URLs, for browsers outside the workers' network."
    )
    region: str | None = Field(
        None,
        description="Region used in signatures; unset means AWS_REGION, then boto3's own lookup "
        "(AWS_DEFAULT_REGION, the profile's in ~/.aws/config), else us-east-1.",
    )
    access_key_id: SecretStr | None = Field(None, description="Access key; unset means boto3's own lookup.")
    secret_access_key: SecretStr | None = Field(None, description="Secret key; unset means boto3's own lookup.")
    addressing_style: Literal["auto", "path", "virtual"] = Field("auto", description="Bucket in the path or the host.")
    checksum: Literal["SHA256", "CRC32", "none"] = Field(
        "none", description="Checksum algorithm sent with uploads; some stores refuse them."
    )
    multipart_threshold: int = Field(
        16 * MEBIBYTE, ge=5 * MEBIBYTE, description="Files of at least so many bytes are uploaded in parts."
    )
    timeout_s: float = Field(20.0, gt=0, description="Connect and read timeout of one request.")


class FetchSettings(_Group):
    """How inputs that a prompt file names by URL are fetched, at submit."""

    networks: Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], NoDecode] = Field(
        (), description="Networks that may be fetched from although they are not public, such as 10.1.0.0/16."
    )
    timeout_s: float = Field(30.0, gt=0, description="Longest time of one fetch, redirects included.")

    @field_validator("networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class EncodeSettings(_Group):
    """How clips are encoded unless a batch says otherwise."""

    codec: Literal["libx264", "libx264rgb", "libx265", "libsvtav1", "h264_nvenc", "hevc_nvenc"] = Field(
        "libx264", description="FFmpeg encoder."
    )
    quality: int = Field(18, ge=0, le=63, description="CRF (CQ for NVENC, QP for libx264rgb): lower is better.")
    preset: str = Field("superfast", description="Encoder speed preset.")
    threads: int = Field(2, ge=1, le=64, description="Encoder threads; part of the output, since x264 depends on it.")
    timeout_s: float = Field(600.0, gt=0, description="An encoder that takes longer is killed.")


class EnhanceSettings(_Group):
    """Prompt enhancement by OpenAI-compatible providers."""

    enabled: bool = Field(False, description="Enhance prompts unless a line says otherwise.")
    providers: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="In priority order: cerebras, groq, openai, or name=base_url for any compatible server; "
        "each may end in #model to be asked for another model than `model`.",
    )
    model: str = Field(
        "gpt-oss-120b",
        description="Model asked for; groq is asked for its openai/gpt-oss-120b, and openai, which serves none, for "
        "gpt-5-mini.",
    )
    timeout_s: float = Field(20.0, gt=0, description="Timeout of one request.")
    temperature: float = Field(0.7, ge=0, le=2, description="Sampling temperature.")
    max_tokens: int = Field(
        2048,
        ge=1,
        description="Longest answer, in tokens, what the model thinks included; one that is cut is asked for once more "
        "with four times as many.",
    )
    system_prompt_dir: Path | None = Field(
        None,
        description="Folder with enhance.txt, auto_extend.txt, rewrite.txt, write_window.txt and rewrite_window.txt; "
        "read again when a file changes.",
    )

    @field_validator("providers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class SafetySettings(_Group):
    """Screening of prompts by a fastText classifier."""

    classifier: Path | None = Field(None, description="fastText model file; unset means prompts are not screened.")
    threshold: float = Field(
        0.5, ge=0, le=1, description="A prompt labelled unsafe with this score or more is stopped."
    )
    policy: Literal["closed", "open", "hold"] = Field(
        "closed",
        description="closed: block unsafe prompts, and run nothing when the classifier cannot; open: run then; "
        "hold: as closed, but unsafe prompts wait for approve or reject. Without a classifier it has no effect.",
    )


class EvalSettings(_Group):
    """How clips are scored."""

    weights_dir: Path | None = Field(
        None, description="Folder of the evaluation models, by official file name or hub id; besides, the hub cache."
    )
    device: str = Field("cpu", description="Where they run: cpu, cuda or cuda:1, as torch names it.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Of the models' matrix products: half precision is faster, and scores are not comparable.",
    )
    workers: Literal["cpu", "gpu"] = Field(
        "cpu",
        description="Which workers score the clips of runs where a model is needed: cpu, or gpu while one is alive.",
    )
    clip_bytes: int = Field(4 * 1024 * MEBIBYTE, gt=0, description="Most bytes of decoded frames of one clip.")


class WorkerSettings(_Group):
    """How workers hold, renew and give up their work."""

    lease_s: float = Field(30.0, gt=0, description="A step whose lease is not renewed for so long is given to another.")
    renew_s: float = Field(5.0, gt=0, description="How often a running step's lease is renewed.")
    control_s: float = Field(1.0, gt=0, description="How often a running step looks for cancel and pause.")
    dispatch_s: float = Field(
        1.0, gt=0, description="How often the dispatcher looks for waiting steps, if nothing wakes it before."
    )
    reconcile_s: float = Field(5.0, gt=0, description="How often expired leases and lost messages are looked for.")
    grace_s: float = Field(25.0, ge=0, description="How long a stopping worker may finish what it runs.")
    affinity_s: float = Field(
        600.0, ge=0, description="A preset that has waited so long takes a GPU from another that has held it so long."
    )
    silence_s: float = Field(
        120.0,
        gt=0,
        description="An idle worker that receives nothing for so long, though its queue holds work, restarts.",
    )
    window: int = Field(64, ge=1, description="Steps in flight on each queue that is not a GPU queue.")
    visibility_timeout_s: int = Field(
        86_400, ge=60, description="Redis redelivers unacknowledged messages after this; must exceed every stage."
    )
    load_deadline_s: float = Field(2400.0, gt=0, description="Longest time for loading and warming up a model.")
    checkpoint_s: float = Field(
        60.0, ge=0, description="How often a running clip's state is kept; 0: only at a stop and after the last step."
    )
    read_ahead: bool = Field(
        True, description="While a clip is made, fetch the next one's inputs and encode its prompt: a hint, no claim."
    )
    growth_bytes: int = Field(
        16 * 1024 * MEBIBYTE,
        ge=0,
        description="A generator's process that grew by more since its warm-up, on its host or GPU, is replaced "
        "between two clips; 0: never.",
    )
    host_cache_bytes: int | None = Field(
        None,
        ge=0,
        description="Most bytes of models kept in the host's memory once they left the GPU, for each GPU; unset: half "
        "of what is free, 0: none.",
    )
    lora_bytes: int = Field(
        2 * 1024 * MEBIBYTE, ge=0, description="Most bytes of LoRAs kept in a loaded model for clips to come."
    )
    lora_cache_bytes: int = Field(
        32 * 1024 * MEBIBYTE, ge=0, description="Most bytes of LoRA files kept in `cache_dir`; those in use count not."
    )
    step_deadline_s: float = Field(600.0, gt=0, description="Longest time for one denoising step or decode.")


class ServeSettings(_Group):
    """How `vgen serve` answers."""

    body_bytes: int = Field(
        48_000_000,
        ge=1,
        description="Longest body of a request without files (JSON, a plain form); a longer one is answered 413.",
    )
    upload_bytes: int = Field(
        320 * MEBIBYTE, ge=1, description="Longest form in parts, its files included; a longer one is answered 413."
    )
    receive_s: float = Field(
        30.0, gt=0, description="A client that sends nothing for so long, in the middle of a request, is answered 408."
    )
    drain_s: float = Field(
        60.0, ge=0, description="How long a stopping server goes on with answers that were begun, such as downloads."
    )
    redirect: bool = Field(
        False, description="Answer downloads by a redirect to the store's presigned URL, where that is another origin."
    )
    idempotency_h: float = Field(
        24.0, gt=0, description="Hours for which a request with the same Idempotency-Key gets the first one's answer."
    )
    public_pages: bool = Field(
        False, description="Show the pages, of every owner and to read only, also to those who have no key."
    )
    public_url: str | None = Field(
        None, description="URL by which people reach the pages of `vgen serve`: Flower and `vgen show` link to it."
    )
    flower_url: str | None = Field(
        None, description="URL by which people reach `vgen flower`: the pages of jobs and `vgen show` link to it."
    )

    @field_validator("public_url", "flower_url")
    @classmethod
    def _check_page(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urllib.parse.urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("is not the URL of a site: use one such as https://clips.example.org")
        if parts.username or parts.password:
            raise ValueError("holds a name or a password, which every link would show: leave it out")
        return value.rstrip("/")


class StreamSettings(_Group):
    """Sessions that watch a video while it is made."""

    gpu_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the live GPU workers that sessions may have at once, rounded up; 0: no sessions here.",
    )
    sessions_per_owner: int = Field(4, ge=1, description="Sessions that one owner may have open at once.")
    session_timeout_s: float = Field(
        300.0, gt=0, description="A session of which nothing was heard for so long ends, and its GPU goes to others."
    )
    chunks_url: SecretStr | None = Field(
        None,
        description="Redis (redis:// or rediss://) that carries live media from workers to servers on other hosts; "
        "unset: those send a segment when its clip is published.",
    )

    @field_validator("chunks_url", mode="after")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis:// or rediss://")
        return value


class NightlySettings(_Group):
    """The evaluation that the beat starts each night, and `vgen eval nightly` at once."""

    crontab: str = Field(
        "", description="When the beat starts it, as cron's five fields in UTC, such as `30 1 * * *`; empty: never."
    )
    preset: str | None = Field(None, description="What is evaluated; unset: the setting preset.")
    suite: Path | None = Field(
        None, description="A suite in the form of VBench_full_info.json; unset: vgen's own eighty prompts."
    )
    seeds: str = Field("1-2", description="Of each prompt, such as 1-2.")
    repeat_seeds: str = Field(
        "", description="Other seeds, with which a regression is repeated before it alarms; empty: it is not."
    )
    metrics: str = Field("checks,common,vbench", description="Metrics and groups, separated by commas.")
    margins: str = Field(
        "",
        description="Largest losses accepted, as NAME=VALUE in the metrics' units, and bounds on a likeness, as "
        "common.ssim>=0.98, separated by commas; only these gate.",
    )
    baseline: str | None = Field(
        None, description="Id of the run to compare with; unset: the median of the last five that passed."
    )


class SweepSettings(_Group):
    """What `vgen sweep`, the beat and solo runs remove from the store, and when."""

    every_h: float = Field(24.0, gt=0, description="Hours between two sweeps, by the beat and in solo runs.")
    orphan_age_h: float = Field(
        24.0, ge=0, description="Hours after which an object that no row points at is removed; longer than any step."
    )
    checkpoint_age_h: float = Field(
        168.0, ge=0, description="Hours after which a failed job's checkpoints are removed: a retry then starts anew."
    )


class RetentionSettings(_Group):
    """How long what finished batches made is kept. Unset means for ever."""

    days: float | None = Field(None, ge=0, description="Days after its end that a batch's clips are kept.")
    history_days: float | None = Field(
        None,
        ge=0,
        description="Days after its end that a batch's attempts and events are kept; also events of no batch, such as "
        "those of keys and queues, by their own age.",
    )
    sessions_days: float | None = Field(
        None,
        ge=0,
        description="Days after its end that the clips of a session that watched them are kept; unset: as any batch's.",
    )
    inputs_days: float | None = Field(
        None, ge=0, description="Days after its end that the inputs which only a finished batch names are kept."
    )


def _user_name() -> str:
    try:
        return check_owner(getpass.getuser())
    except (KeyError, OSError, ValueError):  # a container's user may have no name
        return "unknown"


class Settings(_NormalisedModel, BaseSettings):
    """All settings. The top-level ones say where things are; each group belongs to one part of the line."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    home: Path = Field(
        Path(HOME_NAME),
        description="Folder of a solo run: database, clips, caches, hand-offs; unset means `vgen-home` in the current "
        "folder, or in the nearest above it that has one or a `vgen.toml`.",
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL, postgresql+psycopg://… for a cluster; unset means SQLite in `home`."
    )
    database_listen_url: str | None = Field(
        None,
        description="The same database without a pooler, where `database_url` reaches it by one in transaction mode: "
        "dispatchers hear of waiting steps by it.",
    )
    broker_url: str | None = Field(
        None, description="redis://…, rediss://…, amqp://… or amqps://…; unset means solo mode, in process."
    )
    storage: str | None = Field(None, description="Folder or s3://bucket/prefix for media; unset means `home`/storage.")
    handoff_dir: Path | None = Field(None, description="Where frames wait for the encoder; unset means `home`/handoff.")
    handoff_bytes: int = Field(8 * 1024 * MEBIBYTE, gt=0, description="Most bytes of frames kept there at once.")
    cache_dir: Path | None = Field(None, description="Where built models are kept; unset means `home`/cache.")
    input_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders that input images may lie in; unset: the prompt file's and the current one."
    )
    presets_dir: Path | None = Field(None, description="Folder of your own presets; unset means `home`/presets.")
    trusted_folders: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders whose `.env` and `vgen.toml` may set everything; `.` is whichever is the current one."
    )
    umask: str = Field(
        "077",
        pattern=r"^0?[0-7]{3}$",
        description="Permissions that files and folders made by vgen do not have, in octal; 027 lets the group read.",
    )
    owner: str = Field(
        default_factory=_user_name, description="Who a batch belongs to: one line of at most 64 characters."
    )
    preset: str = Field("shapes-wan", description="Preset of jobs that name none.")
    gpu_type: str | None = Field(None, description="Type this host's GPUs are given, instead of the one found.")
    gpu_count: int = Field(1, ge=1, le=64, description="GPUs that the CPU stands for on a host that has none.")
    gpus_per_worker: int = Field(
        1,
        ge=1,
        le=16,
        description="GPUs that share one clip (`context_parallel`); 4 makes the GPU type h200x4 of h200.",
    )
    prices: Annotated[dict[str, float], NoDecode] = Field(
        {}, description="What an hour of each GPU type costs, such as h200=3.5,a100-80gb=1.8; in any one currency."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("WARNING", description="Least severe level shown.")
    s3: S3Settings = Field(default_factory=S3Settings)
    fetch: FetchSettings = Field(default_factory=FetchSettings)
    encode: EncodeSettings = Field(default_factory=EncodeSettings)
    enhance: EnhanceSettings = Field(default_factory=EnhanceSettings)
    safety: SafetySettings = Field(default_factory=SafetySettings)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    nightly: NightlySettings = Field(default_factory=NightlySettings)
    sweep: SweepSettings = Field(default_factory=SweepSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: str | None) -> str | None:
        if value:
            parse_broker_url(value)
        return value

    @field_validator("input_roots", "trusted_folders", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(os.path.expanduser(part.strip()) for part in value.split(":") if part.strip())  # noqa: PTH111

    @field_validator("prices", mode="before")
    @classmethod
    def _split_prices(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        wrong = next((name for name, equals, _ in pairs if not equals), None)
        if wrong is not None:
            raise ValueError(f"{wrong.strip()!r} is not of the form type=price")
        return {name.strip(): price.strip() for name, _, price in pairs}

    @field_validator("owner")
    @classmethod
    def _check_owner(cls, value: str) -> str:
        return check_owner(value)

    @field_validator("gpu_type")
    @classmethod
    def _check_gpu_type(cls, value: str | None) -> str | None:
        return None if value is None else check_gpu_type(value)

    @field_validator("prices")
    @classmethod
    def _check_prices(cls, value: dict[str, float]) -> dict[str, float]:
        for name, price in value.items():
            check_gpu_type(name)
            if not (math.isfinite(price) and price >= 0):
                raise ValueError(f"{name}={price}: a price is a number of 0 or more")
        return value

    @property
    def solo(self) -> bool:
        """True when there is no broker: everything runs in one process."""
        return self.broker_url is None

    @property
    def effective_database_url(self) -> str:
        """SQLAlchemy's URL; it decodes the path, so what has a meaning in a URL is encoded."""
        if self.database_url:
            return self.database_url
        path = str(self.home.absolute() / DATABASE_NAME)
        return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")

    @property
    def effective_storage(self) -> str:
        return self.storage or str(self.home.absolute() / "storage")

    @property
    def effective_handoff_dir(self) -> Path:
        return (self.handoff_dir or self.home / "handoff").absolute()

    @property
    def effective_cache_dir(self) -> Path:
        return (self.cache_dir or self.home / "cache").absolute()

    @property
    def kernels_dir(self) -> Path:
        """Return the folder of compiled kernels. They are code: those of a home that came with the current folder,
        which may be somebody else's, are not run."""
        if self.cache_dir is None and self.home.resolve().is_relative_to(project_folder().resolve()):
            base = os.environ.get("XDG_CACHE_HOME", "")
            folder = Path(base) if base.startswith("/") else Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111
            return folder / "vgen" / "inductor"
        return self.effective_cache_dir / "inductor"

    def confined_to(self, path: Path) -> Path | None:
        """The current folder, where the path lies in it and nobody trusts it: links in it may have come along with it,
        and nothing is removed through them."""
        folder = project_folder()
        inside = Path(os.path.abspath(path)).is_relative_to(folder)  # noqa: PTH100 - links are not resolved yet
        return folder if inside and not is_trusted(folder, self.trusted_folders) else None

    @property
    def folders(self) -> dict[str, Path]:
        """The folders that vgen writes to on this host, by the setting that names them."""
        folders = {
            "VGEN_HOME": self.home.absolute(),
            "VGEN_HANDOFF_DIR": self.effective_handoff_dir,
            "VGEN_CACHE_DIR": self.effective_cache_dir,
        }
        if "://" not in self.effective_storage:
            folders["VGEN_STORAGE"] = Path(self.effective_storage).absolute()
        return folders

    @property
    def effective_presets_dir(self) -> Path:
        return (self.presets_dir or self.home / "presets").absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _ExternalSource(settings_cls, init_settings)


class _ExternalSource(PydanticBaseSettingsSource):
    """The values that the environment and the files set."""

    def __init__(self, settings_cls: type[BaseSettings], arguments: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._given = arguments

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("all fields are read at once")

    def __call__(self) -> dict[str, Any]:
        arguments = self._given()
        values = gather(self.settings_cls, os.environ, project_folder(), arguments).merged()
        for source in (values, arguments):
            remember(source)
        return values


def load_settings(**overrides: object) -> Settings:
    """Read the settings from every source.

    Raises:
        SettingsError: a value is wrong; the message names the file and line, each setting, its value and the rule.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_sentences(error, overrides))) from None


def notices_of(**overrides: object) -> list[str]:
    """Sentences for people about the sources: what an untrusted folder may not set, and names that are not settings."""
    return gather(Settings, os.environ, project_folder(), overrides).notices


def _is_address(given: object) -> bool:
    """Whether it has the parts of a URL, of which redaction knows the secret ones."""
    try:
        parts = urllib.parse.urlsplit(str(given))
        return bool(parts.scheme and parts.netloc) and (parts.port or 0) >= 0
    except ValueError:
        return False


def _sentences(error: ValidationError, overrides: Mapping[str, object]) -> list[str]:
    gathered = gather(Settings, os.environ, project_folder(), overrides)
    lines = []
    for item in error.errors():
        path = tuple(str(part) for part in item["loc"][:2])
        source = gathered.source_of(path) or gathered.source_of(path[:1])
        place = source.places.get(path) or source.places[path[:1]] if source and path[0] not in overrides else ""
        name = variable(tuple(str(part) for part in item["loc"]))
        where = "" if place in ("", name) else f"{place}: "
        value = item.get("input")
        shown_value = repr(shown_setting(value)) if isinstance(value, str) else redact(repr(value))
        hidden = "key" in name.lower() or (name.endswith("_URL") and not _is_address(value))
        suffix = "" if hidden else f" (given: {shown_value})"
        lines.append(f"{where}{name}: {item['msg'].removeprefix('Value error, ')}{suffix}")
    return lines


@lru_cache(maxsize=1)
def current_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()
