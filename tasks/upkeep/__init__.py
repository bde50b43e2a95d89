"""The work of timers: dispatcher, reconciler, sweeper, alerts, the nightly evaluation, and faults on purpose."""
