"""vgen's work as Celery tasks. Messages carry only ids; everything else is in the rows.

The commands of ``cli.operate.workers`` run the application of ``tasks.app``. It is made when that module is imported,
not with this package: most of what is here needs none. Celery's own command line is not used: ``celery -A tasks.app``
would import whatever is called ``tasks`` in the current folder.
"""
