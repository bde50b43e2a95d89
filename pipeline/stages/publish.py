"""The publish stage: verifies that the uploaded files are complete in the store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline import failpoints
from pipeline.errors import NotFoundError, RetryableError
from pipeline.files.digests import file_sha256
from pipeline.files.object_names import MEDIA_TYPES
from pipeline.outputs import PublishOutput
from pipeline.work import Artifact, StageContext, StageResult, StepWork


def run(work: StepWork, context: StageContext) -> StageResult[PublishOutput]:
    """Verify the clip's four objects and return them as artifacts. Nothing is visible before these are recorded.

    Raises:
        RetryableError: code ``publish_missing``: an object is not there, or is not the one that was uploaded; the
            line then makes its frames again. Or as the store raises.
        StoppedError: asked to stop.
    """
    encoded, replaced = work.outputs.encoded, work.outputs.score.replaced if work.outputs.score else {}
    artifacts = []
    for kind, media_type in MEDIA_TYPES.items():
        context.check()
        ref = replaced.get(kind) or encoded.file(kind)
        artifact = Artifact(kind, ref.key, ref.sha256, ref.size, media_type)
        _verify(artifact, context)
        artifacts.append(artifact)
    failpoints.hit("publish_verified")
    keys = {artifact.kind: artifact.key for artifact in artifacts}
    return StageResult(PublishOutput(**keys), artifacts=tuple(artifacts))


def _verify(artifact: Artifact, context: StageContext) -> None:
    stored = context.storage.stat(artifact.key)
    if stored is None:
        raise _missing(artifact, "it is not in the store")
    if stored.size != artifact.size:
        raise _missing(artifact, f"it has {stored.size} bytes, not {artifact.size}")
    digest = stored.sha256 or _download_sha256(artifact, context)
    if digest != artifact.sha256:
        raise _missing(artifact, f"it has sha256 {digest}, not {artifact.sha256}")


def _download_sha256(artifact: Artifact, context: StageContext) -> str:
    """Compute the sha256 from the bytes, for stores that keep none."""
    with tempfile.TemporaryDirectory(prefix="vgen-publish-") as folder:
        path = Path(folder) / "object"
        try:
            context.storage.download(artifact.key, path)
        except NotFoundError:
            raise _missing(artifact, "it is not in the store") from None
        return file_sha256(path, context.check)


def _missing(artifact: Artifact, why: str) -> RetryableError:
    return RetryableError(f"{artifact.kind} {artifact.key}: {why}", code="publish_missing")
