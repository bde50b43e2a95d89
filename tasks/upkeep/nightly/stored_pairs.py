"""Read clips of two runs from the store in pairs: the baseline's and the candidate's of the same entry and seed."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import NotFoundError
from pipeline.scoring.clip import Clip, read_clip
from pipeline.scoring.compare import Key
from pipeline.storage.base import Storage


class StoredPairs:
    """Clips by records of two runs (``db.evals.runs.records_of``); of several records of one clip the last counts."""

    def __init__(
        self, storage: Storage, baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
    ) -> None:
        self._storage = storage
        self._keys = [_by_key(baseline), _by_key(candidate)]

    def read(self, key: Key) -> tuple[Clip, Clip]:
        """The baseline's clip and the candidate's. Raises NotFoundError or StageError: one is gone or unreadable."""
        with tempfile.TemporaryDirectory(prefix="vgen-night-") as folder:
            clips = []
            for number, keys in enumerate(self._keys):
                if key not in keys:
                    raise NotFoundError(f"entry {key.entry}, seed {key.seed}: one of the two runs has no such clip")
                path = Path(folder) / f"{number}.mp4"
                self._storage.download(keys[key], path)
                clips.append(read_clip(path))
            return clips[0], clips[1]


def _by_key(records: Sequence[Mapping[str, Any]]) -> dict[Key, str]:
    return {
        Key(record["entry"], record["seed"]): record["video"] for record in records if record.get("entry") is not None
    }
