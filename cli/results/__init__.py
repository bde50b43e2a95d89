"""The results of a batch: its clips as paths and URLs, and the report on its time and cost."""
