"""Deletes a batch that has ended: its rows, then its media. The next sweep deletes unused inputs."""

from db.clips.batch_deletion import delete_batch
from db.session import Database
from pipeline.storage import FolderStorage
from pipeline.storage.base import Storage
from service.clip_names import unlink_clips
from service.views.operations import DeletedView


def delete(database: Database, storage: Storage, batch_id: str, *, by: str) -> DeletedView:
    """Delete the batch of that whole id.

    Rows go first: a crash in between leaves objects that nobody names, which are a sweep's.

    Raises:
        ConflictError: it has not ended.
    """
    with database.transaction() as session:
        jobs = delete_batch(session, batch_id, by=by)
    files, size = 0, 0
    for prefix in (f"media/{batch_id}-", f"checkpoints/{batch_id}-"):
        found = list(storage.list(prefix))
        storage.delete_all([item.key for item in found])
        files, size = files + len(found), size + sum(item.size for item in found)
    if isinstance(storage, FolderStorage):
        unlink_clips(storage.root, batch_id)
    return DeletedView(batch_id=batch_id, jobs=jobs, files=files, bytes=size)
