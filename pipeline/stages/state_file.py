"""A continuation state as one file, to be moved between systems: the frames, and all that going on from them needs.

A safetensors file: one tensor of frames (n × H × W × 3 uint8), and one JSON object in its metadata. No part of it is
code, and nothing of it is believed unchecked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.errors import InputError, Problem, RefusedError
from pipeline.keys import sha256_hex, state_key
from pipeline.spec import BatchOptions, JobSpec
from pipeline.stages.base import ContinuationRef
from pipeline.stages.continuation import BLOB, check_fits

SCHEMA = "vgen.state/1"
MAX_BYTES = 4 * 1024**3
_KEY = "vgen"


def write_state(path: Path, state: ContinuationRef, frames: bytes, spec: JobSpec, options: BatchOptions) -> None:
    """Write the file. Raises OSError."""
    head = {
        "schema": SCHEMA,
        "kind": state.kind,
        "version": state.version,
        "payload": state.payload,
        "sha256": state.blobs[BLOB]["sha256"],
        "request": spec.model_dump(mode="json"),
        "options": options.model_dump(mode="json"),
    }
    shape = [state.payload["frames"], state.payload["height"], state.payload["width"], 3]
    tensor = np.frombuffer(frames, np.uint8).reshape(shape)
    save_file({BLOB: tensor}, path, {_KEY: json.dumps(head, sort_keys=True)})


def read_state(path: Path) -> tuple[ContinuationRef, bytes, JobSpec, BatchOptions]:
    """The state, its frames (raw), and the request and options of the clip that left it.

    Raises:
        InputError: it cannot be read, is no state, is damaged, or is of a kind or version that is not known here.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _wrong(path, f"has {path.stat().st_size} bytes; at most {MAX_BYTES}")
        with safe_open(path, framework="np") as file:
            head = json.loads((file.metadata() or {})[_KEY])
            array = file.get_tensor(BLOB)
        return _checked(path, head, array)
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror or error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _wrong(path, f"is not a continuation state: {type(error).__name__}: {str(error)[:300]}") from None


def _checked(path: Path, head: dict[str, Any], array: Any) -> tuple[ContinuationRef, bytes, JobSpec, BatchOptions]:
    if head["schema"] != SCHEMA:
        raise _wrong(path, f"schema is {head['schema']!r}, expected {SCHEMA!r}")
    data = array.tobytes()
    sha256 = sha256_hex(data)
    if sha256 != head["sha256"]:
        raise _wrong(path, f"its frames have sha256 {sha256}, and it says {head['sha256']}")
    blob = {"key": state_key(sha256), "sha256": sha256, "size": len(data)}
    state = ContinuationRef(str(head["kind"]), int(head["version"]), dict(head["payload"]), {BLOB: blob})
    frames, height, width, _ = array.shape
    try:
        check_fits(state, frames=frames, height=height, width=width)
        request, options = JobSpec.model_validate(head["request"]), BatchOptions.model_validate(head["options"])
    except RefusedError as error:
        raise _wrong(path, str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _wrong(path, f"request: {field}: {first['input']!r} is not possible: {first['msg']}") from None
    if (request.height, request.width) != (height, width) or str(array.dtype) != "uint8":
        raise _wrong(path, f"its frames are {width}x{height}, the clip was {request.width}x{request.height}")
    return state, data, request, options


def _wrong(path: Path, message: str) -> InputError:
    return InputError([Problem(message, str(path))])
