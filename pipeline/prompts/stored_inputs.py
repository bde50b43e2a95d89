"""Inputs that an imported specification names by digest: read from this store, and checked like a file's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from pipeline.errors import NotFoundError
from pipeline.files.digests import file_sha256
from pipeline.inputs.collector import Downloads, InputCollector
from pipeline.spec import InputRef

MAX_NAME_CHARS = 4096
Fetch = Callable[[str, Path], None]
"""Writes the object under a key to a file. Raises NotFoundError where there is none."""


class StoredInputs(InputCollector):
    """Resolves digests in place of paths. What it fetched lies in a folder as long as somebody holds this object."""

    def __init__(self, fetch: Fetch) -> None:
        self._folder_held = Downloads()
        super().__init__(self._folder_held.path, (self._folder_held.path,))
        self._fetch = fetch
        self._named: dict[str, InputRef] = {}

    def admit(self, raw: object) -> str:
        """Return what stands for an input in the fields of a line. Raises ValueError with the value and the rule."""
        if not isinstance(raw, Mapping):
            raise ValueError(f"{raw!r:.80} is not a mapping with sha256, media_type and name")
        try:
            ref = InputRef.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"] if str(part).isprintable())
            raise ValueError(f"{where}{first['input']!r:.80} is not possible: {first['msg']}") from None
        if len(ref.name) > MAX_NAME_CHARS or not ref.name.isprintable():
            raise ValueError(f"name: {ref.name!r:.80} is not printable text of at most {MAX_NAME_CHARS} characters")
        self._named[ref.sha256] = ref
        return ref.sha256

    def resolve(self, value: str) -> InputRef:
        return self._as_named(value, lambda path: super(StoredInputs, self).resolve(path))

    def resolve_video(self, value: str) -> InputRef:
        return self._as_named(value, lambda path: super(StoredInputs, self).resolve_video(path))

    def resolve_lora(
        self, path: str | None, repo: str | None, weight_name: str | None, revision: str | None
    ) -> tuple[InputRef, str | None]:
        def resolve(local: str) -> InputRef:
            return super(StoredInputs, self).resolve_lora(local, None, None, None)[0]

        return self._as_named(cast(str, path), resolve), None

    def resolve_undecoded(self, value: str) -> InputRef:
        """An input that is large and was made here: its bytes are compared with its digest, and not decoded."""
        path, ref = self._fetched_here(value)
        self._compare(ref, file_sha256(path))
        return ref

    def _as_named(self, value: str, resolve: Callable[[str], InputRef]) -> InputRef:
        path, ref = self._fetched_here(value)
        stored = resolve(path.name)
        self._compare(ref, stored.sha256)
        return stored.model_copy(update={"name": ref.name})

    def _fetched_here(self, value: str) -> tuple[Path, InputRef]:
        ref = self._named[value]
        path = self._folder_held.path / f"{ref.sha256}.safetensors"  # an ending that a LoRA may need; others need none
        if not path.exists():
            try:
                self._fetch(ref.key, path)
            except NotFoundError:
                raise ValueError(f"{ref.name!r:.80} ({ref.key}) is not in this site's store") from None
        return path, ref

    @staticmethod
    def _compare(ref: InputRef, sha256: str) -> None:
        if sha256 != ref.sha256:
            raise ValueError(f"{ref.key} in the store has sha256 {sha256}: it is damaged")
