"""Commands about single clips: cancel, retry, approve, rerun, extend, generate."""
