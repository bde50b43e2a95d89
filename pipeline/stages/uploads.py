"""Uploads a clip's files: the video, its pictures and its sidecar, under names from their digests."""

from pathlib import Path

from pipeline import failpoints
from pipeline.files.digests import facts_of
from pipeline.files.object_names import MEDIA_TYPES, SUFFIXES, media_key
from pipeline.outputs import ObjectRef
from pipeline.work import StageContext, StepWork


def upload_files(work: StepWork, context: StageContext, paths: dict[str, Path]) -> dict[str, ObjectRef]:
    """Upload every file; returns what is stored, by kind."""
    stored = {}
    for kind, media_type in MEDIA_TYPES.items():
        context.check()
        facts = facts_of(paths[kind])
        key = media_key(work.job_id, facts["sha256"], SUFFIXES[kind])
        failpoints.hit("upload", kind)
        context.storage.put_file(key, paths[kind], sha256=facts["sha256"], content_type=media_type)
        stored[kind] = ObjectRef(key=key, **facts)
    failpoints.hit("after_upload")
    return stored
