"""`vgen eval`: score, compare, suites, the nightly evaluation, weights."""
