"""The line as Celery tasks: thin, since rows are the truth and a chain only carries ids from stage to stage.

``celery -A tasks worker`` finds ``app`` here.
"""

from tasks.app import app

__all__ = ["app"]
