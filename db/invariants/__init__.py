"""Invariants of the rows, as queries that find violations. A violation is a bug.

Asked by ``vgen doctor`` and after every test that works on rows. Importing it builds the queries: workers do not.
"""

from db.invariants.check import RULES, Violation, violations, violations_in
from db.invariants.rule import Rule

__all__ = ["RULES", "Rule", "Violation", "violations", "violations_in"]
