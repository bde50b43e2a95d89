"""Commands for operators: workers, doctor, health, pauses, settings, the database, chaos."""
