"""The line as Celery tasks: thin, since rows are the truth and a chain only carries ids from stage to stage.

The commands of ``cli.operate.workers`` run the application of ``tasks.app``. It is made when that module is imported,
not with this package: most of what is here needs none. Celery's own command line is not used: ``celery -A tasks.app``
would import whatever is called ``tasks`` in the current folder.
"""
