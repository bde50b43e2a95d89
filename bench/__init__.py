"""Benchmarks, each beside what it is compared with. No test asserts their figures."""
