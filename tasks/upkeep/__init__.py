"""Periodic work: dispatcher, reconciler, sweeper, alerts, nightly evaluation, chaos."""
