"""Context parallelism: several processes, with a GPU each, compute one clip's attention together (Ulysses).

Every rank runs the same pipeline on the same request; the denoiser's forward is where they exchange heads for tokens.
After each step the first rank says whether they go on, so that a stop reaches all of them at the same step. After the
last step it decodes and hands over alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.errors import StoppedError
from pipeline.generators.accelerations.refusals import denoisers, unavailable, unsupported

_INSTEAD = "attention, compile and step_cache make a clip faster on one"


def check_devices(ways: int) -> None:
    """
    Raises:
        RefusedError: code ``acceleration_unavailable``; this worker has fewer GPUs.
    """
    if torch.cuda.is_available() and torch.cuda.device_count() < ways:
        device_count = torch.cuda.device_count()
        raise unavailable(
            "context_parallel",
            f"{ways} GPUs are requested, and this worker has {device_count} (VGEN_GPUS_PER_WORKER); {_INSTEAD}",
        )


def join(rank: int, ways: int, store: Path) -> None:
    """Meet the other ranks by a file; returns when all are there. A rank's device is the one of its number."""
    # The device is named: else diffusers 0.42 gathers sizes on the accelerator that PyTorch was built for, even where
    # there is none (``_modeling_parallel.gather_size_by_comm``).
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=ways)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def check_joined(ways: int) -> None:
    """
    Raises:
        RefusedError: code ``acceleration_unavailable``; the ranks are not there: only a worker's child starts them.
    """
    if not dist.is_initialized() or dist.get_world_size() != ways:
        raise unavailable(
            "context_parallel",
            f"{ways} GPUs are requested, and this process has no others: workers with VGEN_GPUS_PER_WORKER={ways} "
            f"start the others; {_INSTEAD}",
        )


def share(pipe: Any, ways: int) -> None:
    """Have the pipeline's denoisers split their sequence among the ranks.

    Raises:
        RefusedError: code ``acceleration_unsupported``; a denoiser's class has no plan for it.
    """
    from diffusers import ContextParallelConfig  # noqa: PLC0415 - takes long

    for model in denoisers(pipe).values():
        if not getattr(model, "_cp_plan", None):
            raise unsupported("context_parallel", model, f"diffusers has no plan for its class; {_INSTEAD}")
        with _countable_device():
            # Anything: sequences and heads need not be multiples of the ranks.
            model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ways, ulysses_anything=True))


@contextmanager
def _countable_device() -> Iterator[None]:
    """diffusers 0.42 numbers a rank's device modulo the accelerators, of which a CPU has none
    (``ModelMixin._resolve_parallel_config``: ZeroDivisionError)."""
    if torch.accelerator.is_available():
        yield
        return
    count = torch.accelerator.device_count
    torch.accelerator.device_count = lambda: 1
    try:
        yield
    finally:
        torch.accelerator.device_count = count


def agree(step: Callable[[], None], *, last: bool) -> None:
    """End a denoising step: the first rank calls ``step``, and an error from it stops the others at the same step.

    Raises:
        StoppedError: on the other ranks; where the first stops, and after the ``last`` step.
    """
    if not dist.is_initialized():
        step()
        return
    stop = torch.zeros(1, dtype=torch.int32)
    if dist.get_rank() == 0:
        try:
            step()
        except BaseException:
            stop[0] = 1
            raise
        finally:
            dist.broadcast(stop, 0)
        return
    dist.broadcast(stop, 0)
    if last or stop.item():
        raise StoppedError("the first rank does the rest")
