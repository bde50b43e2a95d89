"""The proof that a store can be used."""

from __future__ import annotations

import secrets

from pipeline.errors import NotFoundError, RetryableError
from pipeline.storage.base import Storage


def check_round_trip(storage: Storage) -> None:
    """Put, read and delete a small object under a name of its own.

    Raises:
        RetryableError: code ``storage_corrupt``; other bytes came back. Else as every method of the store.
    """
    key, data = f"vgen-check/{secrets.token_hex(8)}", secrets.token_bytes(64)
    storage.put_bytes(key, data, content_type="application/octet-stream")
    try:
        same = storage.read_bytes(key) == data
    except NotFoundError:
        same = False
    storage.delete(key)
    if not same:
        raise RetryableError(f"the store did not give back what was put under {key}", code="storage_corrupt")
