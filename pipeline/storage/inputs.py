"""Puts a submission's inputs into the store."""

from pipeline.inputs.collector import MAX_INPUT_BYTES, StoredInput
from pipeline.storage.base import Storage


def put_input(storage: Storage, item: StoredInput) -> None:
    """Store it under its digest; a large file without reading it into memory.

    Raises InputError where the file is not the one any more that was checked, and what ``Storage`` does.
    """
    if item.path is not None and item.size > MAX_INPUT_BYTES:
        item.require_unchanged()  # said once, in the submitter's words; the store compares what it gets as well
        storage.put_file(item.ref.key, item.path, sha256=item.sha256, content_type=item.media_type)
    else:
        storage.put_bytes(item.ref.key, item.read(), content_type=item.media_type)
