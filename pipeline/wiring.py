"""Creates the storage, enhancer, classifier, generator and other parts that the settings choose."""

from __future__ import annotations

import re
import urllib.parse
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RefusedError, SettingsError
from pipeline.files.object_names import check_key
from pipeline.models.gpu_in_use import cuda_in_use
from pipeline.settings import Settings
from pipeline.storage import FolderStorage, Storage

if TYPE_CHECKING:
    from pipeline.enhancers.enhancer import PromptEnhancer
    from pipeline.safety.filter import PromptSafetyFilter
    from pipeline.scoring import Models

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # Amazon S3, general purpose bucket naming rules
_RULE = "must be a folder, a file:///folder URL or s3://bucket/prefix"


class StageModels:
    """The connections and models that stages keep from clip to clip: made when first used, kept until ``close``.

    Each is imported when it is made, since no worker needs all.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._scorers: Models | None = None

    @cached_property
    def enhancer(self) -> PromptEnhancer:
        """Raises RefusedError: code ``enhance_not_configured``; the setting names no provider, or a wrong one."""
        from pipeline.enhancers.enhancer import PromptEnhancer  # noqa: PLC0415

        try:
            return PromptEnhancer.from_settings(self._settings.enhance)
        except SettingsError as error:
            raise RefusedError(str(error), code="enhance_not_configured") from None

    @cached_property
    def safety_filter(self) -> PromptSafetyFilter | None:
        """The filter with the configured classifier; None where there is none."""
        from pipeline.safety.filter import PromptSafetyFilter  # noqa: PLC0415

        safety = self._settings.safety
        if safety.classifier is None:
            return None
        return PromptSafetyFilter(safety.classifier, block_threshold=safety.threshold)

    def scorers(self, device: str | None = None) -> Models:
        """The models that score; ``device`` in place of the setting's. Those on another device are released."""
        from pipeline.scoring import Models, Weights  # noqa: PLC0415

        wanted = device or self._settings.eval.device
        scorers = self._scorers  # in a solo run another thread may release them meanwhile
        if scorers is None or scorers.device != wanted:
            self.release_scorers()
            digests = self._settings.effective_cache_dir / "eval" / "digests.json"
            scorers = self._scorers = Models(
                Weights(self._settings.eval.weights_dir, digests), wanted, self._settings.eval.precision
            )
        return scorers

    def release_scorers(self) -> None:
        """Give back the scorers' memory, a GPU's too; they are loaded again when they are needed."""
        if self._scorers is None:
            return
        self._scorers = None
        if (cuda := cuda_in_use()) is not None:
            cuda.empty_cache()

    def close(self) -> None:
        """End the classifier's process, close the enhancer's connections and release the scorers."""
        for name in ("enhancer", "safety_filter"):
            if (made := self.__dict__.pop(name, None)) is not None:
                made.close()
        self.release_scorers()


def make_storage(settings: Settings) -> Storage:
    """The store that ``settings.effective_storage`` names; nothing is read or written yet.

    Raises:
        SettingsError: it is not a folder, a ``file://`` or an ``s3://`` URL.
    """
    value = settings.effective_storage
    scheme, separator, address = value.partition("://")
    if not value.strip() or "\0" in value:
        raise SettingsError(f"VGEN_STORAGE {value!r}: {_RULE}")
    if not separator:
        return _folder_storage(settings, Path(value).expanduser())
    if scheme == "file":
        parts = urllib.parse.urlsplit(value)
        if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
            raise SettingsError(f"VGEN_STORAGE {value!r}: {_RULE}; a file URL names an absolute path of this host")
        return _folder_storage(settings, Path(urllib.parse.unquote(parts.path)))
    if scheme != "s3":
        raise SettingsError(f"VGEN_STORAGE {value!r}: {_RULE}")
    return _s3_storage(settings, value, address)


def _folder_storage(settings: Settings, root: Path) -> Storage:
    return FolderStorage(root, confined_to=settings.confined_to(root))


def _s3_storage(settings: Settings, value: str, address: str) -> Storage:
    bucket, _, prefix = address.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SettingsError(
            f"VGEN_STORAGE {value!r}: bucket {bucket!r} must have 3 to 63 lower-case letters, digits, dots and hyphens"
        )
    if prefix.strip("/"):
        try:
            check_key(prefix.strip("/"))
        except RefusedError as error:
            raise SettingsError(f"VGEN_STORAGE {value!r}: {error}") from None
    from pipeline.storage.s3 import S3Storage  # noqa: PLC0415  # boto3 is slow to load, and solo runs need none

    return S3Storage(bucket, prefix, settings.s3)
