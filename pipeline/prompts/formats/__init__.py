"""The formats of prompt files: each reader turns bytes into defaults and records of raw fields."""
