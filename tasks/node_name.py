"""The name of a worker, used for its row, its leases and its Celery node."""

import os
import secrets
import socket


def new_node_name(role: str) -> str:
    """``ROLE-RANDOM-PID@HOST``, another one at each call.

    The random part tells apart the workers of containers that share a host name, in each of which the process has the
    same id; process id and host are for people.
    """
    return f"{role}-{secrets.token_hex(4)}-{os.getpid()}@{socket.gethostname()}"
