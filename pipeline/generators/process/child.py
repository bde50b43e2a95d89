"""The process that owns the GPU.

``python -m pipeline.generators.process.child PARENT_PID CACHE_DIR [RANK COUNT FILE]`` starts it.

With a rank it is one of the processes that share a clip with the generator's child, whose parent is that child.

It reads commands from its standard input and writes events to what was its standard output (see ``wire``); then its
file descriptor 1 is its standard error, so that nothing a library prints can break the protocol. It never outlives
its parent: it ends at the end of its input, and the kernel kills it when the thread that started it is gone. SIGINT,
SIGTERM and SIGHUP are the parent's business: a Ctrl-C or a container's stop reaches both, and the parent decides.
"""

import contextlib
import gc
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from pipeline import processes
from pipeline.acceleration import Acceleration
from pipeline.errors import FatalError, OutOfMemoryError, StoppedError
from pipeline.generators.base import HandOver, Phase, Progress, SavedCheckpoint
from pipeline.generators.idle import IdleGenerator
from pipeline.generators.process import wire
from pipeline.generators.process.memory_growth import Growth
from pipeline.generators.process.ranks import Ranks
from pipeline.models.host_cache import HostCache
from pipeline.presets import Preset


class Child:
    """One generator and the commands for it. Commands run on the main thread, one at a time.

    But for a clip's last part: its frames are handed over on another thread, beside the next command.
    """

    def __init__(self, events: TextIO, cache_dir: Path, place: tuple[int, int, Path] | None = None) -> None:
        self._events = events
        self._sending = threading.Lock()
        self._handing_over = ThreadPoolExecutor(1, thread_name_prefix="hand-over")
        self._handed_over: Future[None] | None = None
        """The last clip whose frames were handed over, or are now."""
        self._cache_dir = cache_dir
        self._commands: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stopped: dict[int, bool] = {}
        """Commands that were asked to stop, and whether they are to leave a checkpoint."""
        self._generator: Any = None
        self._key = ""
        """What names the generator among those that wait in the host's memory."""
        self._waiting = HostCache()
        self._growth = Growth(0)
        self._place = place
        """Of one that follows the child: its rank, how many ranks there are, and the file by which they meet."""
        self._ranks: Ranks | None = None

    def read(self, lines: TextIO) -> None:
        """The reader thread: a stop is noted at once, the rest waits its turn, the end of input ends the process."""
        for line in lines:
            command = json.loads(line)
            if command["command"] == "stop":
                self._stopped[command["id"]] = command["keep"]
            elif command["command"] == "exit":
                break
            else:
                self._commands.put(command)
        os._exit(0)  # also in the middle of a step: nobody is left to take the result

    def serve(self) -> None:
        """Carry out commands for ever."""
        while True:
            command = self._commands.get()
            number = command["id"]
            try:
                self._carry_out(command, number)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported to the parent
                failed = error.with_traceback(None)  # its frames hold on to the clip's tensors
                if self._ranks is not None and not isinstance(error, StoppedError):
                    self._ranks.exit_if_one_died()
                self._free(failed)
                self._send(number, "error", wire.error_to_wire(failed))
            if self._ranks is not None:
                self._ranks.wait_for_all(number)
            self._stopped.pop(number, None)

    def _free(self, error: Exception) -> None:
        """Give back unused memory after a clip did not fit, before the next one is tried."""
        if isinstance(error, OutOfMemoryError):
            error.__cause__ = error.__context__ = None
            self._waiting.clear()
            if self._generator is not None:
                self._generator.free()

    def _carry_out(self, command: dict[str, Any], number: int) -> None:
        def on_progress(progress: Progress) -> None:
            self._send(number, "progress", wire.progress_to_wire(progress))
            if self._ranks is not None and progress.phase is not Phase.DENOISE:
                return  # ranks stop together, after a step
            if number in self._stopped and not (self._stopped[number] and _is_nearly_done(progress)):
                raise StoppedError(
                    f"stopped in {progress.phase} at step {progress.step} of {progress.total}",
                    keep=self._stopped[number],
                )

        if command["command"] == "load":
            how = Acceleration.model_validate(command["acceleration"])
            self._join_ranks(how.context_parallel, command)
            source = self._load(Preset.model_validate(command["preset"]), how, command, on_progress)
            self._growth = Growth(command["growth_bytes"])
            self._send(number, "ready", {"source": source})
        elif command["command"] == "generate":
            if self._generator is None:
                raise FatalError("no model is loaded", code="model_not_loaded")
            if self._ranks is not None:
                self._ranks.send(command)
            request = wire.request_from_wire(command["request"])
            self._finish(number, self._generator.make(request, on_progress, _CheckpointReporter(self._send, number)))
        elif command["command"] == "prepare":
            self._prepare(command)
        elif command["command"] == "calibrate":
            from pipeline.generators.accelerations import calibrate  # noqa: PLC0415 - torch

            ratios = calibrate.ratios(self._generator, wire.request_from_wire(command["request"]), on_progress)
            self._send(number, "result", {"ratios": ratios})
        else:
            raise FatalError(f"command {command['command']!r} is unknown")

    def _finish(self, number: int, hand_over: HandOver) -> None:
        """Have a clip that is made handed over: beside the next one, unless this process is not to make it.

        Ranks keep step with each other, and so hand over in turn.
        """
        if self._handed_over is not None:
            self._handed_over.result()  # no more than one clip's frames wait
        alone = self._ranks is None and self._place is None
        if alone and self._growth.has_outgrown(self._generator.free) is None:
            self._send(number, "made", {})
            self._handed_over = self._handing_over.submit(self._hand_over, number, hand_over)
        else:
            data = wire.result_to_wire(hand_over())
            del hand_over
            self._send(number, "result", data, has_outgrown=self._growth.has_outgrown(self._generator.free))

    def _hand_over(self, number: int, hand_over: HandOver) -> None:
        try:
            self._send(number, "result", wire.result_to_wire(hand_over()))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported to the parent
            self._send(number, "error", wire.error_to_wire(error))

    def _prepare(self, command: dict[str, Any]) -> None:
        """Nobody waits for it, so it gives way to whatever is asked for, and what fails is left to the clip itself."""
        if self._generator is None or not self._commands.empty():
            return
        try:
            self._generator.prepare(command["preset"], command["prompt"], command["negative_prompt"])
        except Exception as error:  # noqa: BLE001 - a hint
            print(f"prompt not encoded ahead: {error}", file=sys.stderr)  # noqa: T201 - the child's log
            self._generator.free()

    def _join_ranks(self, ways: int, command: dict[str, Any]) -> None:
        """Leave the process group of the model before, and join that of this one, before a load."""
        if self._ranks is not None or self._place is not None:
            from pipeline.generators.accelerations import parallel  # noqa: PLC0415 - torch

            if self._place is not None:
                parallel.join(*self._place)
                return
            if self._generator is not None:
                self._generator.unload()
                self._generator = None
            parallel.leave()
            if self._ranks is not None:
                self._ranks.end()
                self._ranks = None
        if ways > 1:
            from pipeline.generators.accelerations import parallel  # noqa: PLC0415 - torch

            parallel.check_devices(ways)
            self._ranks = Ranks(ways, self._cache_dir)
            self._ranks.send(command)
            parallel.join(0, ways, self._ranks.store)

    def _load(
        self, preset: Preset, how: Acceleration, command: dict[str, Any], on_progress: Callable[[Progress], None]
    ) -> str:
        """Have the preset's generator at hand; ``host`` when it waited in the host's memory, else ``disk``."""
        key = json.dumps([command["preset"], command["acceleration"], command["files"]], sort_keys=True)
        generator: Any = self._waiting.take(key)  # first, so that it is not what has to make room
        if self._generator is not None:
            evicted, self._generator = self._generator, None
            self._waiting.keep(self._key, evicted, command["host_cache_bytes"])
        self._key = key
        if generator is not None and generator.is_current():
            generator.resume(on_progress)
            self._generator = generator
            return "host"
        if generator is not None:
            generator.unload()
        self._generator = self._load_generator(preset, how, command["lora_bytes"], on_progress)
        return "disk"

    def _load_generator(
        self, preset: Preset, how: Acceleration, lora_bytes: int, on_progress: Callable[[Progress], None]
    ) -> Any:
        if preset.generator == "idle":
            idle = IdleGenerator()
            idle.load_preset(preset, on_progress)
            return idle
        if "torch" not in sys.modules:
            on_progress(Progress(Phase.LIBRARIES, 0, 1))
        from pipeline.generators.diffusers_video import DiffusersVideoGenerator  # noqa: PLC0415 - torch

        if not gc.get_freeze_count():
            gc.freeze()  # what was imported stays: whoever gives a model's memory back need not look at it each time
        generator = DiffusersVideoGenerator(self._cache_dir, lora_bytes=lora_bytes)
        generator.load_preset(preset, on_progress, how)
        return generator

    def _send(self, number: int, event: str, data: dict[str, Any], **more: Any) -> None:
        with self._sending:
            self._events.write(json.dumps({"id": number, "event": event, "data": data, **more}) + "\n")
            self._events.flush()


def _is_nearly_done(progress: Progress) -> bool:
    """Frames that are decoded are sooner handed on than made again."""
    return progress.phase is Phase.HAND_OFF or (progress.phase is Phase.DECODE and progress.step == progress.total)


class _CheckpointReporter:
    """Tells the parent of checkpoints."""

    def __init__(self, send: Callable[[int, str, dict[str, Any]], None], number: int) -> None:
        self._send = send
        self._number = number

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        self._send(self._number, "checkpoint", wire.checkpoint_to_wire(checkpoint))

    def unusable(self, reason: str) -> None:
        self._send(self._number, "unusable", {"reason": reason})


def main() -> None:
    """Start the reader and serve."""
    if not processes.die_with_parent(int(sys.argv[1]), signal.SIGKILL):
        os._exit(0)
    processes.set_process_name("vgen-generator")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    rank = (int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])) if len(sys.argv) > 3 else None
    child = Child(events, Path(sys.argv[2]), rank)
    threading.Thread(target=child.read, args=(sys.stdin,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, and so are we
        child.serve()
    os._exit(0)


if __name__ == "__main__":
    main()
