"""The GPU memory of this process, asked for without loading torch."""

import sys
from typing import Any


def cuda_in_use() -> Any | None:
    """Return torch's module ``cuda`` where this process uses a GPU, else None.

    Another thread may be in the middle of ``import torch``: the module is then there without most of its names, and
    nothing can have used a GPU yet.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None
