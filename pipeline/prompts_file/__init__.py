"""Prompt files (.txt, .jsonl, .csv, .yaml), read, checked and expanded into jobs; see docs/prompt-files.md."""

from pipeline.prompts_file.fields import FIELD_RULES
from pipeline.prompts_file.parse import parse, parse_bytes
from pipeline.prompts_file.submission import PlannedJob, Submission

__all__ = ["FIELD_RULES", "PlannedJob", "Submission", "parse", "parse_bytes"]
