"""Read a batch's deadline as people write it."""

import re
from datetime import datetime, timedelta, tzinfo

FORMS = "use a time such as 07:00, a date and time such as 2026-03-01T07:00, or a delay such as +3h, +90m or +1d"

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_DELAY = re.compile(r"\+(?:(?P<d>\d{1,4})d)?(?:(?P<h>\d{1,5})h)?(?:(?P<m>\d{1,6})m)?")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def parse_deadline(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """The moment that ``text`` means after ``now`` (with its zone). Wall-clock times are of ``zone``, or this host's.

    A time of day is the next such time: at 07:00, ``07:00`` is tomorrow's.

    Raises:
        ValueError: the text is none of the forms, or does not lie ahead.
    """
    text = text.strip()
    try:
        deadline = _moment(text, now, zone)
    except OverflowError:
        deadline = None
    if deadline is None:
        raise ValueError(f"{text!r} is not a valid time: {FORMS}")
    if deadline <= now:
        local_now = now.astimezone(zone).isoformat(sep=" ", timespec="minutes")
        raise ValueError(f"{text!r} is in the past: it is {local_now} now")
    return deadline


def _moment(text: str, now: datetime, zone: tzinfo | None) -> datetime | None:
    if text.startswith("+"):
        delay = _DELAY.fullmatch(text)
        if delay is None or not any(delay.groups()):
            return None
        return now + timedelta(**{_UNITS[unit]: int(number) for unit, number in delay.groupdict().items() if number})
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        # By the wall clock and then made a moment again, so that a day of 23 or 25 hours still ends at that time.
        wall = now.astimezone(zone).replace(
            hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0, tzinfo=None
        )
        today = _in_zone(wall, zone)
        return today if today > now else _in_zone(wall + timedelta(days=1), zone)
    if len(text) <= len("2026-03-01"):  # a day alone says no time
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return _in_zone(moment, zone) if moment.tzinfo is None else moment


def _in_zone(wall: datetime, zone: tzinfo | None) -> datetime:
    return wall.astimezone() if zone is None else wall.replace(tzinfo=zone)
