"""Bytes in the form of a safetensors file, right or wrong."""

from __future__ import annotations

import struct


def file_bytes(header: bytes, tensors: bytes = b"") -> bytes:
    """A file with that header, whatever it says."""
    return struct.pack("<Q", len(header)) + header + tensors
