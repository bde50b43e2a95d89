"""Measurements, side by side with what it is compared to; never asserted in a test."""
