"""Segments that the line makes."""

from server.stream.line.source import LineSource

__all__ = ["LineSource"]
