"""The line over HTTP: a thin translation between requests and rows. No state is kept in the process."""
