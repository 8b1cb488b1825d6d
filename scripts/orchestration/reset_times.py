"""When a limit ends, read out of what an agent says: a pure function of a text and the time now."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

_LONGEST = 2000
"""Characters of a text that are read; a message is a line."""
_EPOCH = re.compile(r"(?<![\w.:-])(\d{10})(?:\d{3})?(?![\w:-])")
_ISO = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?(?!\w)")
_CLOCK = r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d)(?::\d\d)?)?[ \u202f]?(?P<half>[ap]\.?m\b\.?)?"
_ZONE = r"(?: ?\((?P<zone>[^()\s]+)\)| (?P<utc>UTC|GMT)\b)?"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(
    rf"\b(?P<month>{'|'.join(_MONTHS)})[a-z]*\.? (?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<year>\d{{4}}))?"
    rf"(?:,| at|, at)? {_CLOCK}{_ZONE}",
    re.IGNORECASE,
)
_TIME = re.compile(rf"(?<![\w.:]){_CLOCK}(?![\w:]){_ZONE}", re.IGNORECASE)
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_PART = r"(?P<count>\d{1,6}(?:\.\d{1,6})?) ?(?P<unit>weeks?|w|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)"
_PARTS = re.compile(rf"{_PART}(?![a-z])", re.IGNORECASE)
_SPAN = re.compile(
    rf"(?<![\w.:])(?:{re.sub(r'[?]P<[a-z]+>', '?:', _PART)}(?![a-z])(?:,? ?(?:and )?))+(?![\w:])", re.IGNORECASE
)
_DAY = timedelta(days=1)
_FAR = timedelta(days=92)
"""Longer than any limit: ten digits that say so, or a time that has passed, are something else, such as a request's."""
_MINUTE = timedelta(minutes=1)


def read(text: str, now: datetime) -> datetime | None:
    """Return when the limit ends that a text speaks of, in UTC; None if it does not say, or the time has passed.

    A time of day that has passed is tomorrow's; a date without a year is the nearest.

    Args:
        text: what the agent said: `resets 3:59am (UTC)`, `try again in 2 days 17 hours`, an epoch, ISO 8601.
        now: the time, with a zone: a text that names none means that one.

    """
    text = text[:_LONGEST]
    for reader in (_epoch, _iso, _date, _span, _time):
        try:
            found = next((found.astimezone(UTC) for found in reader(text, now)), None)
        except (ValueError, OverflowError, LookupError, OSError):  # no such hour, day, year or zone
            return None
        if found:
            return found if found > now else None
    return None


def zone(name: str) -> tzinfo:
    """Return a time zone by its name.

    Raises:
        ValueError | LookupError | OSError: there is none of this name here.

    """
    return UTC if name.upper() in {"UTC", "GMT", "Z"} else ZoneInfo(name)


def _epoch(text: str, now: datetime) -> Iterator[datetime]:
    moments = (datetime.fromtimestamp(int(found[1]), UTC) for found in _EPOCH.finditer(text))
    yield from (moment for moment in moments if now < moment < now + _FAR)


def _iso(text: str, now: datetime) -> Iterator[datetime]:
    if found := _ISO.search(text):
        moment = datetime.fromisoformat(found[0])
        yield moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def _date(text: str, now: datetime) -> Iterator[datetime]:
    found = _DATE.search(text)
    if not found or not (found["minute"] or found["half"]):
        return
    here = now.astimezone(_zone(found, now))
    month, day = _MONTHS.index(found["month"].lower()) + 1, int(found["day"])
    years = [int(found["year"])] if found["year"] else [here.year - 1, here.year, here.year + 1]
    moments = []
    for year in years:
        try:
            moments.append(_at(found, here.replace(year=year, month=month, day=day)))
        except ValueError:  # 29 February
            continue
    yield min(moments, key=lambda moment: abs(moment - here))


def _span(text: str, now: datetime) -> Iterator[datetime]:
    if found := _SPAN.search(text):
        parts = {part["unit"][0].lower(): float(part["count"]) for part in _PARTS.finditer(found[0])}
        yield now + timedelta(**{_UNITS[unit]: count for unit, count in parts.items()})


def _time(text: str, now: datetime) -> Iterator[datetime]:
    for found in _TIME.finditer(text):
        if not (found["minute"] or found["half"]):
            continue
        here = now.astimezone(_zone(found, now))
        moment = _at(found, here)
        if moment <= here < moment + _MINUTE:
            moment += _MINUTE  # it is told to the minute, and that has not ended
        yield moment if moment > here else _at(found, here + _DAY)


def _zone(found: re.Match[str], now: datetime) -> tzinfo:
    name = found["zone"] or found["utc"]
    return zone(name) if name else now.tzinfo or UTC


def _at(found: re.Match[str], day: datetime) -> datetime:
    """Return a day's time of the clock.

    Raises:
        ValueError: no clock shows it.

    """
    hour, half = int(found["hour"]), (found["half"] or "")[:1].lower()
    if half and not 1 <= hour <= 12:  # noqa: PLR2004 - a clock's face
        raise ValueError(found[0])
    hour = hour % 12 + (12 if half == "p" else 0) if half else hour
    return day.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0, fold=0)
