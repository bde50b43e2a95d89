"""Sessions of /v1/stream."""
