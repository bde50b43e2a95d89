"""The definition of a job and the work of each stage, without Celery and SQL."""
