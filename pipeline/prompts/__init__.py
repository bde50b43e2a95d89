"""Prompt files (.txt, .jsonl, .csv, .yaml), read, checked and expanded into jobs; see docs/prompt-files.md."""

from pipeline.prompts.fields import FIELD_RULES
from pipeline.prompts.parse import parse, parse_bytes
from pipeline.prompts.submission import PlannedJob, Submission

__all__ = ["FIELD_RULES", "PlannedJob", "Submission", "parse", "parse_bytes"]
