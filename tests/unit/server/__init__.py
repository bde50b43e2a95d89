"""Tests of the HTTP server within one process."""
