"""One worker: running a step from claim to finish, its lease, its generator, loading and prefetching."""
