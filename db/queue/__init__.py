"""The leased queue: how a step is enqueued, claimed, renewed, ended, recovered and paused."""
