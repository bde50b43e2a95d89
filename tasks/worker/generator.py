"""The generator of one GPU worker and its loaded model, shared by steps and model loader."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pipeline.generators.base import (
    NO_CHECKPOINTS,
    CheckpointReceiver,
    GenerationRequest,
    GenerationResult,
    OnMade,
    OnProgress,
    Phase,
    Progress,
)
from pipeline.generators.process.handle import GeneratorProcess, Load

_SAY_S = 0.5

OnLoaded = Callable[[Load, str | None], None]
"""Told of each load, and of the preset that was there before."""


class SharedGenerator:
    """A generator process that is used by one thread at a time, and whose loads are counted.

    The next thread's turn comes when a clip is made, not when its frames are handed over.
    """

    def __init__(self, process: GeneratorProcess, on_loaded: OnLoaded) -> None:
        self._process = process
        self._on_loaded = on_loaded
        self._using = threading.Lock()
        self._clips = 0
        self._making = False
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
        """Call ``GeneratorProcess.load`` once nobody else uses the generator."""
        with self._use(on_progress), self._counting():
            self._process.load(preset, on_progress)

    def generate(
        self,
        request: GenerationRequest,
        on_progress: OnProgress,
        checkpoints: CheckpointReceiver = NO_CHECKPOINTS,
        on_made: OnMade | None = None,
    ) -> GenerationResult:
        """Call ``GeneratorProcess.generate`` once nobody else uses the generator."""
        with ExitStack() as turn:

            def made() -> None:
                turn.close()
                if on_made is not None:
                    on_made()

            turn.enter_context(self._use(on_progress))
            turn.enter_context(self._counting())
            turn.enter_context(self._making_a_clip())
            return self._process.generate(request, on_progress, checkpoints, made)

    @property
    def making(self) -> int | None:
        """The number of the clip that is being made, from 1; None between two."""
        return self._clips if self._making else None

    def prepare(self, preset: str, prompt: str, negative_prompt: str | None) -> None:
        """Call ``GeneratorProcess.prepare``; whoever uses the generator goes first."""
        self._process.prepare(preset, prompt, negative_prompt)

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
    def _making_a_clip(self) -> Iterator[None]:
        self._clips += 1
        self._making = True
        try:
            yield
        finally:
            self._making = False

    @contextmanager
    def _counting(self) -> Iterator[None]:
        before = self._process.last_load
        try:
            yield
        finally:
            self._held = self._process.loaded_preset
            load = self._process.last_load
            if load is not None and load is not before:
                was, self._last = self._last, load.preset
                self._on_loaded(load, was)
