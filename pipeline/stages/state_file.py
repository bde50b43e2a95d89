"""A continuation state as one file, to be moved between installations.

A safetensors file: one tensor of frames (n × H × W × 3 uint8), and one JSON object in its metadata. No part of it is
code, and nothing of it is believed unchecked.
"""

import json
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from pipeline.digests import sha256_hex
from pipeline.errors import InputError, Problem, RefusedError
from pipeline.files.json_reader import json_of_bytes
from pipeline.files.object_names import state_key
from pipeline.prompts.numbers import show
from pipeline.spec import BatchOptions, JobSpec
from pipeline.stages.continuation import BLOB, check_fits
from pipeline.work import ContinuationRef

SCHEMA = "vgen.state/1"
MAX_BYTES = 4 * 1024**3
MAX_FRAMES = 1_000
"""A clip goes on from a handful."""
_KEY = "vgen"
_DIMENSIONS, _CHANNELS = 4, 3
_REVISION_CHARS = 256
_HEAD: dict[str, tuple[type, str]] = {
    "kind": (str, "text"),
    "version": (int, "a whole number"),
    "payload": (dict, "a mapping"),
    "sha256": (str, "text"),
    "request": (dict, "a mapping"),
    "options": (dict, "a mapping"),
}


def write_state(path: Path, state: ContinuationRef, frames: bytes, spec: JobSpec, options: BatchOptions) -> None:
    """Write the file. Raises OSError."""
    head = {
        "schema": SCHEMA,
        "kind": state.kind,
        "version": state.version,
        "payload": state.payload,
        "sha256": state.blobs[BLOB]["sha256"],
        "request": spec.model_dump(mode="json"),
        "options": options.as_json(),
    }
    shape = [state.payload["frames"], state.payload["height"], state.payload["width"], 3]
    tensor = np.frombuffer(frames, np.uint8).reshape(shape)
    save_file({BLOB: tensor}, path, {_KEY: json.dumps(head, sort_keys=True)})


@dataclass(frozen=True, slots=True)
class StateFile:
    """The content of a state file. ``request`` and ``options`` are unchecked: ``pipeline.prompts.imported`` does it."""

    state: ContinuationRef
    frames: bytes
    """Raw: n × H × W × 3 uint8."""
    request: dict[str, Any]
    options: dict[str, Any]

    def of(self, spec: JobSpec, path: Path) -> ContinuationRef:
        """The state as it is stored, once the request was checked: what the file says beside is left out.

        Raises:
            InputError: its frames have another size than the clip.
        """
        payload = self.state.payload
        if (spec.height, spec.width) != (payload["height"], payload["width"]):
            size = f"{payload['width']}x{payload['height']}"
            raise _wrong(path, f"its frames are {size}, the clip was {spec.width}x{spec.height}")
        content = {**payload, "fps": spec.fps, "preset": spec.preset, "prompt": spec.prompt}
        return replace(self.state, payload=content)


def read_state(path: Path) -> StateFile:
    """Read a state file.

    Raises:
        InputError: it cannot be read, is not a state, is damaged, or is of a kind or version that is not known here.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise _wrong(path, "is not a file")
        if facts.st_size > MAX_BYTES:
            raise _wrong(path, f"has {facts.st_size} bytes; at most {MAX_BYTES}")
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise _wrong(path, f"is not a continuation state: its metadata have no {_KEY!r}")
            head = json_of_bytes(text.encode(), str(path), what="the state")
            tensor = file.get_slice(BLOB)
            shape, dtype = tuple(tensor.get_shape()), str(tensor.get_dtype())
            if len(shape) != _DIMENSIONS or shape[3] != _CHANNELS or dtype != "U8" or not 0 < shape[0] <= MAX_FRAMES:
                raise _wrong(path, f"its frames have shape {shape} and type {dtype}, not n x H x W x 3 bytes")
            data = file.get_tensor(BLOB).tobytes()
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror or error}") from None
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the library raises at a file that somebody made up
        raise _wrong(path, f"is not a continuation state: {type(error).__name__}: {str(error)[:300]}") from None
    return _checked(path, head, data, shape)


def _checked(path: Path, head: object, data: bytes, shape: tuple[int, ...]) -> StateFile:
    if not isinstance(head, dict) or head.get("schema") != SCHEMA:
        schema = head.get("schema") if isinstance(head, dict) else head
        raise _wrong(path, f"schema is {show(schema)}, expected {SCHEMA!r}")
    problems = [
        Problem("is missing" if head.get(name) is None else f"{show(head[name])} is not {form}", str(path), field=name)
        for name, (kind, form) in _HEAD.items()
        if not isinstance(head.get(name), kind) or isinstance(head.get(name), bool)
    ]
    if problems:
        raise InputError(problems)
    sha256 = sha256_hex(data)
    if sha256 != head["sha256"]:
        raise _wrong(path, f"its frames have sha256 {sha256}, and it says {show(head['sha256'])}")
    payload = {name: head["payload"].get(name) for name in ("frames", "height", "width", "model_revision")}
    revision = payload["model_revision"]
    if not isinstance(revision, str | None) or len(revision or "") > _REVISION_CHARS:
        raise InputError([Problem(f"{show(revision)} is not text", str(path), field="payload.model_revision")])
    blob = {"key": state_key(sha256), "sha256": sha256, "size": len(data)}
    state = ContinuationRef(head["kind"], head["version"], payload, {BLOB: blob})
    try:
        check_fits(state, frames=shape[0], height=shape[1], width=shape[2])
    except RefusedError as error:
        raise _wrong(path, str(error)) from None
    return StateFile(state, data, head["request"], head["options"])


def _wrong(path: Path, message: str) -> InputError:
    return InputError([Problem(message, str(path))])
