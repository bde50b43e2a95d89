"""The rows' rules, checked after every test that works on rows."""

from __future__ import annotations

from db import invariants
from db.session import Database


def keeps_every_rule(database: Database) -> None:
    """Fails the test that left rows behind which break a rule of ``db.invariants``."""
    assert database.damage() is None
    broken = invariants.violations(database)
    assert not broken, "\n".join(str(violation) for violation in broken)
