"""Files that people hand in: opened, read and named so that none of them can surprise; and digests."""
