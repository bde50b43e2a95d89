"""Times for people: in this machine's time zone, and the time left. Programs get ISO 8601 in UTC."""

from datetime import UTC, datetime

from cli import output


def span(seconds: float) -> str:
    """Return a length of time as people say it: ``35 s``, ``4 min``, ``2 h 10 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(whole / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def clock(iso: str, now: datetime | None = None) -> str:
    """Return the local time of day of an ISO 8601 time, with the date where that is another day."""
    at = datetime.fromisoformat(iso).astimezone()
    today = (now or datetime.now(UTC)).astimezone().date()
    return f"{at:%H:%M}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}"


def left(iso: str, now: datetime | None = None) -> str:
    """Return how long it is until then, and when that is: ``about 35 s left (02:43)``."""
    now = now or datetime.now(UTC)
    seconds = (datetime.fromisoformat(iso) - now).total_seconds()
    return f"about {span(seconds)} left ({clock(iso, now)})"


def so_far(iso: str, now: datetime | None = None) -> str:
    """Return how long it has been going on since then: ``13 s so far``."""
    return f"{span(((now or datetime.now(UTC)) - datetime.fromisoformat(iso)).total_seconds())} so far"


def shown(iso: str | None) -> str | None:
    """Return a time for a table or a fact: local on a terminal, as it is for a pipe."""
    if iso is None or not output.is_terminal():
        return iso
    return f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M:%S}"
