"""All settings in one model: the top-level ones, and the groups.

Sources, the strongest first: arguments, ``VGEN_*`` variables, ``.env``, ``vgen.toml``, the user's file, defaults.
``pipeline.settings.folder_trust`` says what the files of an untrusted folder may set. A field of a group is set by
``VGEN_<GROUP>_<FIELD>`` or in the group's table of ``vgen.toml``: ``VGEN_S3_ENDPOINT_URL`` and ``[s3] endpoint_url``
are the same. docs/settings.md lists every setting; a test compares.
"""

from __future__ import annotations

import getpass
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.names import check_gpu_type, check_owner
from pipeline.redaction import remember
from pipeline.settings.base import NormalisedModel
from pipeline.settings.broker_url import parse_broker_url
from pipeline.settings.folder_trust import is_trusted
from pipeline.settings.groups import (
    MEBIBYTE,
    EncodeSettings,
    EnhanceSettings,
    EvalSettings,
    FetchSettings,
    NightlySettings,
    RetentionSettings,
    S3Settings,
    SafetySettings,
    ServeSettings,
    StreamSettings,
    SweepSettings,
    WorkerSettings,
)
from pipeline.settings.project import DATABASE_NAME, HOME_NAME, project_folder
from pipeline.settings.sources import gather


def _user_name() -> str:
    try:
        return check_owner(getpass.getuser())
    except (KeyError, OSError, ValueError):  # a container's user may have no name
        return "unknown"


class Settings(NormalisedModel, BaseSettings):
    """All settings. The top-level ones say where things are; each group belongs to one part of vgen."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    home: Path = Field(
        Path(HOME_NAME),
        description="Home folder of solo mode: database, clips, caches, hand-offs; unset means `vgen-home` in the "
        "current folder, or in the nearest above it that has one or a `vgen.toml`.",
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL, postgresql+psycopg://… for a cluster; unset means SQLite in `home`."
    )
    database_listen_url: str | None = Field(
        None,
        description="URL of the same database without its pooler, if `database_url` leads to a pooler in transaction "
        "mode; dispatchers LISTEN there.",
    )
    broker_url: str | None = Field(
        None, description="redis://…, rediss://…, amqp://… or amqps://…; unset means solo mode, in process."
    )
    storage: str | None = Field(None, description="Folder or s3://bucket/prefix for media; unset means `home`/storage.")
    handoff_dir: Path | None = Field(
        None, description="Folder where frames wait for the encoder; unset means `home`/handoff."
    )
    handoff_bytes: int = Field(8 * 1024 * MEBIBYTE, gt=0, description="Most bytes of frames in the hand-off folder.")
    cache_dir: Path | None = Field(None, description="Folder of caches and built models; unset means `home`/cache.")
    input_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders where input images are allowed; unset: the prompt file's and the current one."
    )
    presets_dir: Path | None = Field(None, description="Folder of your own presets; unset means `home`/presets.")
    trusted_folders: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders whose `.env` and `vgen.toml` may set everything; `.` means the current folder."
    )
    umask: str = Field(
        "077",
        pattern=r"^0?[0-7]{3}$",
        description="Umask of the files and folders that vgen writes, in octal; 027 lets the group read.",
    )
    owner: str = Field(default_factory=_user_name, description="Owner of new batches: at most 64 characters.")
    preset: str = Field("shapes-wan", description="Preset of jobs that do not set one.")
    gpu_type: str | None = Field(None, description="Type of this host's GPUs, instead of the detected one.")
    gpu_count: int = Field(
        1, ge=1, le=64, description="Number of generators that run on the CPU of a host without a GPU."
    )
    gpus_per_worker: int = Field(
        1,
        ge=1,
        le=16,
        description="GPUs that share one clip (`context_parallel`); 4 makes the GPU type h200x4 of h200.",
    )
    prices: Annotated[dict[str, float], NoDecode] = Field(
        {}, description="Price per hour of each GPU type, such as h200=3.5,a100-80gb=1.8; in any one currency."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING", description="Lowest level of log lines to show."
    )
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
