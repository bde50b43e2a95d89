"""The world of ``shapes-wan``: what its prompts can ask for, and whether a clip shows it."""

from pipeline.scoring.shapes.words import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, Asked, asked_for

__all__ = ["BACKGROUNDS", "COLOURS", "MOTIONS", "SHAPES", "SIZES", "Asked", "asked_for"]
