"""Streaming sessions: their rows, the order of their segments, and their end."""
