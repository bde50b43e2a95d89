"""One worker: a step from claim to finish, its lease, its generator, and what it loads and prefetches."""
