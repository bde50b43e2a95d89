"""Checks every invariant at once and returns the violations."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy.orm import Session

from db.invariants import attempts, clips, evals, jobs, sessions
from db.invariants.rule import Query, Rule
from db.session import Database

RULES = (*jobs.RULES, *clips.RULES, *attempts.RULES, *evals.RULES, *sessions.RULES)
"""Every rule, in the order in which a report shows them."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """Rows that break a rule."""

    rule: str
    subject: str
    """The batch's or job's id."""
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject} ({self.detail})"


def violations(database: Database, *, limit: int = _SHOWN) -> list[Violation]:
    """Everything that breaks a rule, at most ``limit`` for each; all rules look at the same instant.

    Reads every job and step: seconds for a million rows.
    """
    with database.reading(one_instant=True) as session:
        return violations_in(session, limit=limit)


def violations_in(session: Session, *, limit: int = _SHOWN) -> list[Violation]:
    """The same as this transaction sees it."""
    return [
        Violation(rule.name, str(row[0]), _detail(row._mapping, rule.says))
        for rule, broken in _statements(limit)
        for row in session.execute(broken)
    ]


@cache
def _statements(limit: int) -> list[tuple[Rule, Query]]:
    """Made once: SQLAlchemy recognises a statement that it compiled by an object's key, which is slow to make."""
    return [(rule, rule.broken.limit(limit)) for rule in RULES]


def _detail(row: Any, says: str) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in list(row.items())[1:])
    return f"{says}; found {facts}" if facts else says
