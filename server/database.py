"""What a route is handed: the settings, the database, the store.

SQLAlchemy's sessions block: a route that opens one is a plain function, which Starlette runs in a thread.
"""

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from db.session import Database
from pipeline.settings import Settings
from pipeline.storage import Storage
from pipeline.wiring import make_storage
from server.recently import RecentQueue, RecentSpeed
from server.thumbnails import Thumbnails
from service.keys import KeyRule


@dataclass
class Line:
    """The line that is served: where its rows and its media are."""

    settings: Settings
    database: Database
    stopping: threading.Event
    """Set when the server is to end: answers that wait for something end with what there is."""
    key_rule: KeyRule = KeyRule.ONCE_ANY_EXISTS
    allowed_origins: tuple[str, ...] = ()
    """Sites whose pages may call the server, as browsers name them: ``https://example.org``."""
    speed: RecentSpeed = field(default_factory=RecentSpeed)
    queue: RecentQueue = field(default_factory=RecentQueue)
    thumbnails: Thumbnails = field(default_factory=Thumbnails)

    @cached_property
    def storage(self) -> Storage:
        return make_storage(self.settings)


async def line_of(connection: HTTPConnection) -> Line:
    line: Line = connection.app.state.line
    return line


ServedLine = Annotated[Line, Depends(line_of)]
