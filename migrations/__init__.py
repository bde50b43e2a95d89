"""Alembic's migrations; `vgen db upgrade` applies them."""
