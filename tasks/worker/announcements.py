"""The lines that `vgen worker` prints: what is ready for what, one per clip, what is being loaded.

They are shown there whatever the log level is; a solo run has its own display, and shows them at level INFO only.
"""

import logging

from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, gpu_type_of, is_encode_queue

_logger = logging.getLogger(__name__)


def show() -> None:
    """Show the lines in this process and in those that it forks."""
    _logger.setLevel(logging.INFO)


def announce(text: str, **details: object) -> None:
    """Write a line, with details as ``name=value``."""
    _logger.info(text, extra=details)


def role_of(worker: str) -> str:
    """Return the role in a worker's name: ``gpu0`` of ``gpu0-RANDOM-PID@HOST``."""
    return worker.partition("-")[0]


def work_on(queues: tuple[str, ...] | list[str]) -> str:
    """Return what a worker of these queues does, in words."""
    kinds = [gpu_type_of(queue) for queue in queues]
    parts = [f"makes clips on {kind}" for kind in kinds if kind]
    if CPU_QUEUE in queues:
        parts.append("screens prompts")
    if any(is_encode_queue(queue) for queue in queues):
        parts.append("encodes and scores clips")
    if IO_QUEUE in queues:
        parts.append("enhances prompts, publishes clips and dispatches")
    return ", ".join(parts) or "dispatches"
