"""What a batch has made: its clips as paths and URLs, and the report on where its time and money went."""
