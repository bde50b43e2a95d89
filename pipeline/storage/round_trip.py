"""Proves that a store works, by a put, a get, a list and a delete."""

import contextlib
import secrets
import tempfile
from pathlib import Path

from pipeline.digests import sha256_hex
from pipeline.errors import NotFoundError, RetryableError, VgenError
from pipeline.storage.base import Storage

_FOLDER = "vgen-check"
_KIND = "application/octet-stream"


def check_round_trip(storage: Storage) -> None:
    """Do with two small objects, under names of their own, all that the line does: put, ask for, read, list, remove.

    Raises:
        RetryableError: code ``storage_corrupt``; something else came back. Else as every method of the store.
    """
    keys = [f"{_FOLDER}/{secrets.token_hex(8)}" for _ in range(2)]
    data = secrets.token_bytes(64)
    # Before anything is there: a store that hides what is missing from this user answers that it is forbidden.
    if storage.stat(keys[0]) is not None:
        raise _unexpected(f"lists an object {keys[0]} that was never uploaded")
    try:
        storage.put_bytes(keys[0], data, content_type=_KIND)
        _put_file(storage, keys[1], data)
        _read_back(storage, keys, data)
        storage.delete(keys[0])
        storage.delete_all(keys)
    except BaseException:
        with contextlib.suppress(VgenError):
            storage.delete_all(keys)
        raise


def _put_file(storage: Storage, key: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="vgen-check-") as folder:
        path = Path(folder, "object")
        path.write_bytes(data)
        storage.put_file(key, path, sha256=sha256_hex(data), content_type=_KIND)


def _read_back(storage: Storage, keys: list[str], data: bytes) -> None:
    listed = {item.key: item.size for item in storage.list(f"{_FOLDER}/")}
    for key in keys:
        try:
            same = storage.read_bytes(key) == data
        except NotFoundError:
            same = False
        if not same:
            raise _unexpected(f"did not give back what was put under {key}")
        if listed.get(key) != len(data):
            raise _unexpected(f"did not list what was put under {key}")


def _unexpected(problem: str) -> RetryableError:
    return RetryableError(f"the store {problem}", code="storage_corrupt")
