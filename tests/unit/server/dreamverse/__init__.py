"""Tests of Dreamverse's protocol."""
