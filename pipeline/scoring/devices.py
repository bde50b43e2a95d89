"""Several devices on one list of clips: each takes the next clip as it is done with one."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from pipeline.scoring.clip import MAX_BYTES
from pipeline.scoring.metric import Metric
from pipeline.scoring.residency import Models
from pipeline.scoring.run import ClipScores, ClipToScore, score_clips

_Result = tuple[int, ClipScores | BaseException]


def score_on(
    clips: Sequence[ClipToScore],
    metrics: Sequence[Metric],
    devices: Sequence[Models],
    max_bytes: int = MAX_BYTES,
    check: Callable[[], None] = lambda: None,
) -> Iterator[ClipScores]:
    """Score clips on several devices, a thread each; results come in the order of the clips.

    Each device decodes its own clips, at most ``max_bytes`` of them for each device. Raises as ``score_clips``: what
    one device raises ends the others after the clip that they have.
    """
    if len(devices) == 1:
        yield from score_clips(clips, metrics, devices[0], max_bytes, check)
        return
    results: queue.Queue[_Result] = queue.Queue()
    stop = threading.Event()
    source = _Shared(clips, stop)
    threads = [
        threading.Thread(
            target=_work, args=(source, metrics, models, max_bytes, check, results), name=f"vgen-score-{number}"
        )
        for number, models in enumerate(devices)
    ]
    for thread in threads:
        thread.start()
    try:
        early: dict[int, ClipScores] = {}
        for wanted in range(len(clips)):
            while wanted not in early:
                index, result = results.get()
                if isinstance(result, BaseException):
                    raise result
                early[index] = result
            yield early.pop(wanted)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class _Shared:
    """The clips that no device has yet, with their places in the list."""

    def __init__(self, clips: Sequence[ClipToScore], stop: threading.Event) -> None:
        self._left = iter(enumerate(clips))
        self._stop, self._lock = stop, threading.Lock()

    def taken_by(self, places: list[int]) -> Iterator[ClipToScore]:
        """Clips for one device; their places are added to its list."""
        while not self._stop.is_set():
            with self._lock:
                place, clip = next(self._left, (-1, None))
            if clip is None:
                return
            places.append(place)
            yield clip


def _work(
    source: _Shared,
    metrics: Sequence[Metric],
    models: Models,
    max_bytes: int,
    check: Callable[[], None],
    results: queue.Queue[_Result],
) -> None:
    places: list[int] = []
    try:
        for done, scored in enumerate(score_clips(source.taken_by(places), metrics, models, max_bytes, check)):
            results.put((places[done], scored))
    except BaseException as error:  # noqa: BLE001 - raised again where the results are read
        results.put((-1, error))
