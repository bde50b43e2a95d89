"""Commands for who runs a line: workers, doctor, health, pauses, settings, the database, chaos."""
