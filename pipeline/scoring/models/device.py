"""Check that torch can compute on a device, before anything is loaded."""

import torch

from pipeline.errors import SettingsError

_KINDS = ("cpu", "cuda", "mps")


def require(name: str) -> None:
    """Raises SettingsError: it is not a device's name, or this machine has no such device."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in _KINDS:
        raise SettingsError(f"device: {name!r} is not a device; use one of: cpu, cuda, cuda:NUMBER, mps")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type == "mps" and not torch.backends.mps.is_available():
        count = 0
    if (device.index or 0) >= count:
        raise SettingsError(f"device: {name!r} is not on this machine, where torch finds {count} of that kind")
