"""A clip's checkpoint file, and the policy of when to write one. Imports no torch.

A checkpoint is one safetensors file: tensors, and in its metadata one JSON object that says what they are. Nothing in
it is code: reading a wrong one can fail, and do no more. It fits one request under one numerics fingerprint, both of
which it holds.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open, serialize_file

from pipeline.digests import sha256_hex
from pipeline.errors import StoppedError
from pipeline.files.digests import file_sha256
from pipeline.generators.base import CheckpointReceiver, GenerationRequest, OnProgress, Phase, Progress, SavedCheckpoint

SCHEMA = "vgen.checkpoint/1"
WORTH_KEEPING_S = 1.0
"""Denoising that took less is sooner done again than fetched."""
_KEY = "vgen"


class CheckpointUnusableError(Exception):
    """The clip must begin anew; the message says why."""


class UnsupportedStateError(Exception):
    """The loop holds something that a checkpoint cannot; the message names it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of the request that a checkpoint fits."""

    request: str
    """sha256 (hex) of all that decides the clip apart from the numerics."""
    numerics: dict[str, Any]

    @classmethod
    def of(cls, request: GenerationRequest, *, model: Mapping[str, Any], numerics: dict[str, Any]) -> Identity:
        """``model`` is small JSON that names the model and its revision.

        What accelerates the clip is the numerics' part: there the reason is named.
        """
        # Without LoRAs as before there were any, so that a checkpoint of then still fits.
        left_out = {"acceleration"} if request.spec.loras else {"acceleration", "loras"}
        spec = request.spec.model_dump(mode="json", exclude=left_out)
        parts = {"spec": spec, "prompt": request.prompt, "model": dict(model)}
        if request.previous is not None:
            parts["previous"] = file_sha256(request.previous)
        return cls(sha256_hex(json.dumps(parts, sort_keys=True)), numerics)


Write = Callable[[Path, dict[str, str]], None]
"""Writes the tensors with this metadata, and its own under keys of its own, to the path."""


class CheckpointKeeper:
    """Saves one clip's state when it is time, and passes it to the receiver.

    A checkpoint that cannot be written costs a later attempt time, never this one: the clip goes on without.
    """

    def __init__(
        self,
        request: GenerationRequest,
        identity: Identity,
        checkpoints: CheckpointReceiver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request = request
        self._identity = identity
        self._checkpoints = checkpoints
        self._clock = clock
        self._begun = self._saved = clock()
        self._resumed_from = 0
        self.facts: dict[str, Any] = {"denoise_steps": 0}

    def check(self) -> dict[str, str] | None:
        """The metadata of the request's checkpoint; None when there is none, or it does not fit (then reported)."""
        if self._request.resume_from is None:
            return None
        try:
            return read_metadata(self._request.resume_from, self._identity)
        except CheckpointUnusableError as error:
            self.refuse(str(error))
            return None

    def refuse(self, reason: str) -> None:
        """Say that the checkpoint cannot be used."""
        self._resumed_from = 0
        self.facts = {"denoise_steps": 0, "checkpoint_unusable": reason[:500]}
        self._checkpoints.unusable(reason[:500])

    def resumed(self, step: int) -> None:
        """The loop is about to go on from after this step."""
        self._resumed_from = step
        self.facts["resumed_from_step"] = step

    def after_step(self, step: int, total: int, on_progress: OnProgress, write: Write) -> None:
        """Report the step, and save when a stop wants it, it is time, or it was the last.

        Raises:
            StoppedError: ``on_progress`` did.
        """
        self.facts["denoise_steps"] += 1
        is_due = self._request.checkpoint_s is not None and step != self._resumed_from
        try:
            on_progress(Progress(Phase.DENOISE, step, total))
        except StoppedError as stop:
            if stop.keep and is_due:
                self._save(step, total, write)
            raise
        if is_due and self._is_time(final=step == total):
            self._save(step, total, write)

    def _is_time(self, *, final: bool) -> bool:
        every = self._request.checkpoint_s or 0.0
        if final:
            return self._clock() - self._begun >= (min(WORTH_KEEPING_S, every) if every else WORTH_KEEPING_S)
        return every > 0 and self._clock() - self._saved >= every

    def _save(self, step: int, total: int, write: Write) -> None:
        path = self._request.frames_path.with_suffix(f".{step}.checkpoint")
        try:
            write_whole(path, lambda draft: write(draft, metadata(step, total, self._identity)))
            sha256, size = file_sha256(path), path.stat().st_size
        except (OSError, SafetensorError, UnsupportedStateError) as error:
            path.unlink(missing_ok=True)
            self.facts["checkpoint_failed"] = f"{type(error).__name__}: {error}"[:500]
            print(f"checkpoint of step {step} not written: {error}", file=sys.stderr)  # noqa: T201 - the child's log
            return
        self._saved = self._clock()
        self._checkpoints.saved(SavedCheckpoint(path, step, total, sha256, size, self._identity.numerics))


def metadata(step: int, total: int, identity: Identity) -> dict[str, str]:
    """Return what every checkpoint says of itself."""
    values = {
        "schema": SCHEMA,
        "step": step,
        "total": total,
        "request": identity.request,
        "numerics": identity.numerics,
    }
    return {_KEY: json.dumps(values, sort_keys=True)}


def step_of(header: Mapping[str, str]) -> tuple[int, int]:
    """(step, total) of a checkpoint's metadata."""
    values = json.loads(header[_KEY])
    return int(values["step"]), int(values["total"])


def read_metadata(path: Path, identity: Identity) -> dict[str, str]:
    """The metadata of a checkpoint that fits.

    Raises:
        CheckpointUnusableError: the file is missing or broken, of another format, request or numerics.
    """
    try:
        with safe_open(path, framework="np") as file:
            header: dict[str, str] = file.metadata() or {}
        values = json.loads(header[_KEY])
        schema, request, numerics = values["schema"], values["request"], values["numerics"]
        step, total = step_of(header)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnusableError(f"cannot be read: {type(error).__name__}: {error}") from error
    if schema != SCHEMA:
        raise CheckpointUnusableError(f"its format is {schema!r}, expected {SCHEMA!r}")
    if request != identity.request:
        raise CheckpointUnusableError("it was made for another request, preset or model revision")
    if changed := _differences(numerics, identity.numerics):
        raise CheckpointUnusableError(f"numerics differ: {changed}")
    if not 1 <= step <= total:
        raise CheckpointUnusableError(f"its step {step} of {total} is not possible")
    return header


def write_state_only(path: Path, header: dict[str, str]) -> None:
    """A checkpoint without tensors."""
    serialize_file({}, path, header)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` make a file that takes its name only when it is complete. Raises what ``write`` does."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        write(draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    return ", ".join(f"{name} was {then.get(name)!r} and is {now.get(name)!r}" for name in names)
