"""The generator of one GPU worker and the model in it, shared by the steps and by the keeper of the lane."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.generators.base import (
    NO_CHECKPOINTS,
    GenerationRequest,
    GenerationResult,
    OnProgress,
    Phase,
    Progress,
    TakesCheckpoints,
)
from pipeline.generators.process import GeneratorProcess

_SAY_S = 0.5

OnLoaded = Callable[[str, float | None, str | None], None]
"""Told of each load: the preset, the seconds that it took where known, and the preset that was there before."""


class Resident:
    """A generator process that is used by one thread at a time, and whose loads are counted."""

    def __init__(self, process: GeneratorProcess, on_loaded: OnLoaded) -> None:
        self._process = process
        self._on_loaded = on_loaded
        self._using = threading.Lock()
        self._held: str | None = None
        self._last: str | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def held(self) -> str | None:
        """The preset in memory; while the generator is in use, the one that was there before."""
        if self._using.acquire(blocking=False):
            try:
                self._held = self._process.loaded_preset
            finally:
                self._using.release()
        return self._held

    def load(self, preset: str, on_progress: OnProgress) -> None:
        """As ``GeneratorProcess.load``, once nobody else uses the generator."""
        with self._use(on_progress):
            started = time.monotonic()
            with self._counting(lambda: time.monotonic() - started):
                self._process.load(preset, on_progress)

    def generate(
        self, request: GenerationRequest, on_progress: OnProgress, checkpoints: TakesCheckpoints = NO_CHECKPOINTS
    ) -> GenerationResult:
        """As ``GeneratorProcess.generate``, once nobody else uses the generator."""
        with self._use(on_progress), self._counting(lambda: None):
            return self._process.generate(request, on_progress, checkpoints)

    def close(self) -> None:
        """End the generator's process, whoever uses it."""
        self._process.close()

    @contextmanager
    def _use(self, on_progress: OnProgress) -> Iterator[None]:
        while not self._using.acquire(timeout=_SAY_S):
            on_progress(Progress(Phase.LOAD, 0, 1))  # raises when whoever waits is to stop
        try:
            yield
        finally:
            self._using.release()

    @contextmanager
    def _counting(self, seconds: Callable[[], float | None]) -> Iterator[None]:
        before = self._process.loaded_preset
        try:
            yield
        finally:
            self._held = self._process.loaded_preset
            if self._held is not None and self._held != before:
                was, self._last = self._last, self._held
                self._on_loaded(self._held, seconds(), was)
