"""What all sessions of this process share: the configuration, who makes segments, who writes prompts, who is let in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from db.session import Database
from pipeline.settings import Settings
from server.stream.config import RequestPart, ServeFile, StreamingConfig
from server.stream.line import LineSource
from server.stream.mock import DEFAULT_GPUS, MockGpus, MockSource
from server.stream.prompts import ConfiguredPrompts, MockPrompts, PromptDesk
from server.stream.session import SessionRegistry
from server.stream.source import SegmentSource

if TYPE_CHECKING:
    from server.stream.connection import Connection

MOCK_TIMEOUT_S = 120
"""What FastVideo's mock has for the ``session_timeout_seconds`` of a file that does not say it."""


@dataclass
class StreamService:
    """The sessions of one server."""

    config: StreamingConfig
    make_source: Callable[[], SegmentSource]
    prompts: PromptDesk
    request: RequestPart = field(default_factory=RequestPart)
    preset: str | None = None
    """The preset of sessions that name none."""
    gpus: MockGpus | None = None
    """Of a mock: its GPUs."""
    max_per_owner: int | None = None
    """Connections that one owner may have at once; None: as many as there may be."""
    watched: dict[str, Connection] = field(default_factory=dict)
    """Which connection each session has now, by the session's id."""

    def __post_init__(self) -> None:
        self.sessions = SessionRegistry(self.config.max_sessions, self.max_per_owner)

    @classmethod
    def mock(cls, file: ServeFile | None = None) -> StreamService:
        """Return sessions whose segments are moving gradients."""
        file = file or ServeFile()
        config = file.streaming or StreamingConfig()
        if "session_timeout_seconds" not in config.model_fields_set:
            config = config.model_copy(update={"session_timeout_seconds": MOCK_TIMEOUT_S})
        gpus = MockGpus(config.pool.num_workers or DEFAULT_GPUS)
        return cls(
            config, lambda: MockSource(gpus, config, file.request), MockPrompts(), file.request, file.preset, gpus=gpus
        )

    @classmethod
    def of_line(cls, settings: Settings, database: Database, file: ServeFile | None = None) -> StreamService:
        """Return sessions whose segments the line makes."""
        file = file or ServeFile()
        config = file.streaming or StreamingConfig()
        if "session_timeout_seconds" not in config.model_fields_set:
            config = config.model_copy(update={"session_timeout_seconds": round(settings.stream.session_timeout_s)})
        prompts = ConfiguredPrompts(settings)
        return cls(
            config,
            lambda: LineSource(settings, database, file.request),
            prompts,
            file.request,
            file.preset,
            # Room for every session that the owner may have, and for a second connection that takes it over.
            max_per_owner=2 * settings.stream.sessions_per_owner,
        )

    def close(self) -> None:
        self.prompts.close()
