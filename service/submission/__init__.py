"""How a prompt file becomes rows, for the command line, HTTP and Python alike.

``prepare`` checks the options of its batch, ``submit`` stores what is not made yet, ``dry_run`` shows what that is.
``store`` is the last step alone, for jobs that come from elsewhere: other batches, suites, requests for single videos.
"""

from service.submission.flow import Prepared, prepare, submit, view_of
from service.submission.notices import advice_on, input_notes, presets_of, screening_notices
from service.submission.options import batch_options
from service.submission.planning import dry_run, unserved
from service.submission.storing import require_enhancer, store

__all__ = [
    "Prepared",
    "advice_on",
    "batch_options",
    "dry_run",
    "input_notes",
    "prepare",
    "presets_of",
    "require_enhancer",
    "screening_notices",
    "store",
    "submit",
    "unserved",
    "view_of",
]
