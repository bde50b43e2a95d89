"""${message}

Rules: additive first (a column with a default, then code that uses it, then the constraint in a later release), so that
the previous release's workers go on against the new schema; indexes on large tables are made concurrently; a data
change goes in pages, not in one UPDATE.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
