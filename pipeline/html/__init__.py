"""The base of every page: templates, one stylesheet, one script, and how texts of strangers are written."""

from pipeline.html.cards import Card
from pipeline.html.environment import STATIC, environment, render, static_text

__all__ = ["STATIC", "Card", "environment", "render", "static_text"]
