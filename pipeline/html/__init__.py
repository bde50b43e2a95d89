"""The base of every HTML page: templates, one stylesheet, one script, and safe output of user texts."""

from pipeline.html.cards import Card
from pipeline.html.environment import STATIC, environment, render, static_text

__all__ = ["STATIC", "Card", "environment", "render", "static_text"]
