"""What a job is and how each stage of the line works: no Celery and no SQL in here."""
