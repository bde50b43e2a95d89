"""A connection to where batches are kept, and ``vgen.submit`` over the one that the settings name."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pipeline.errors import InputError, Problem
from pipeline.nearest import did_you_mean
from pipeline.prompts.fields import PARSERS
from pipeline.settings import Settings, load_settings
from service.choices import SubmissionChoices
from vgen.batches.backend import Backend
from vgen.batches.batch import Batch
from vgen.batches.prompts import Prompts, prompt_file

_OPTIONS = tuple(SubmissionChoices.__dataclass_fields__)


class Connection:
    """Batches of one database or one server; ``close`` it, or use ``with``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def submit(self, prompts: Prompts, **options: Any) -> Batch:
        """Store a batch; the same once more adds nothing, unless ``again=True``.

        Of a ``Path`` only what earlier batches of the file do not have is made, unless ``reuse=False``; of a text or a
        list everything, unless ``reuse=True``. What is not made again is named in ``submitted.reused``.

        Args:
            prompts: a prompt file's ``Path``, its text, or a list of prompts and of mappings with a line's fields.
            options: as of `vgen submit`: ``name``, ``key``, ``again``, ``reuse``, ``owner``, ``by``, ``max_gpu_hours``,
                ``max_cost``, ``score``, ``gate``, ``reroll``, ``codec``, ``quality``, ``safety_policy``; with a list
                also fields of a line, for those that do not say them.

        Raises:
            InputError: every mistake in the prompts, with line and field; nothing was stored.
            ServiceUnavailableError: the database or the server cannot be reached.
        """
        fields = {name: value for name, value in options.items() if name not in _OPTIONS}
        _require_known(fields)
        choices = SubmissionChoices(**{name: value for name, value in options.items() if name in _OPTIONS})
        submitted = self._backend.submit(prompt_file(prompts, fields), choices)
        return Batch(self._backend, submitted.batch.id, submitted)

    async def submit_async(self, prompts: Prompts, **options: Any) -> Batch:
        return await asyncio.to_thread(lambda: self.submit(prompts, **options))

    def batch(self, batch_id: str) -> Batch:
        """A batch by its id. Raises NotFoundError."""
        return Batch(self._backend, self._backend.status(batch_id).batch.id)

    def batches(self) -> Iterator[Batch]:
        """Every batch that may be seen, newest first."""
        after = None
        while True:
            page = self._backend.batches(after)
            yield from (Batch(self._backend, view.id) for view in page.batches)
            if not page.has_more:
                return
            after = page.batches[-1].id

    def close(self) -> None:
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    url: str | None = None, key: str | None = None, *, settings: Settings | Mapping[str, Any] | None = None
) -> Connection:
    """Connect to a server by its URL and a key; without a URL, to the rows that the settings in force name.

    Args:
        url: of `vgen serve`, such as ``http://127.0.0.1:8000``.
        key: as `vgen keys create` shows it; none where the server asks for none.
        settings: settings, or a mapping over those in force, such as ``{"home": "/data/vgen"}``.

    Raises:
        InputError, SettingsError: the URL or a setting is wrong.
        ServiceUnavailableError: the database cannot be reached, or its tables are of another release.
    """
    if url is not None:
        from vgen.batches.http import Server  # noqa: PLC0415 - neither needs what the other one imports

        return Connection(Server(url, key))
    if key is not None:
        raise InputError([Problem("a key is for a server: give its url", field="key")])
    from vgen.batches.rows import Rows  # noqa: PLC0415

    return Connection(Rows(settings if isinstance(settings, Settings) else load_settings(**(settings or {}))))


def _require_known(fields: Mapping[str, Any]) -> None:
    """Raises InputError: neither an option of a batch nor a field of a line has such a name."""
    unknown, rule = (
        [name for name in fields if name not in PARSERS],
        "is neither an option of a batch nor a line's field",
    )
    if unknown:
        hints = {name: did_you_mean(name, (*_OPTIONS, *PARSERS)) for name in unknown}
        raise InputError([Problem(f"{rule}; {hints[name]}".rstrip("; "), field=name) for name in unknown])


def submit(prompts: Prompts, **options: Any) -> Batch:
    """Store a batch in the rows that the settings in force name: ``connect().submit``."""
    return connect().submit(prompts, **options)


async def submit_async(prompts: Prompts, **options: Any) -> Batch:
    return await asyncio.to_thread(lambda: submit(prompts, **options))
