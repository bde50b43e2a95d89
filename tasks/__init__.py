"""The line as Celery tasks: thin, since rows are the truth and a chain only carries ids from stage to stage.

The commands of ``cli.operate.workers`` run ``app``. Celery's own command line is not used: ``celery -A tasks`` would
import whatever is called ``tasks`` in the current folder.
"""

from tasks.app import app

__all__ = ["app"]
