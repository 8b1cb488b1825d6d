"""Reset times: each form in which an agent says when its limit ends is read, and never as a past time."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestration.reset_times import read, zone

NOW = datetime(2026, 11, 21, 2, 59, 38, tzinfo=UTC)
TOKYO, NEW_YORK, BERLIN = (ZoneInfo(name) for name in ("Asia/Tokyo", "America/New_York", "Europe/Berlin"))


def utc(day: int, hour: int, minute: int = 0, second: int = 0, month: int = 11, year: int = 2026) -> datetime:
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


# what is said | when that is
SAID = [
    ("1795233578", utc(21, 3, 59, 38)),
    ("1795233578000", utc(21, 3, 59, 38)),
    ("Claude AI usage limit reached|1795233578", utc(21, 3, 59, 38)),
    ('"resets_at": 1795233578}', utc(21, 3, 59, 38)),
    ("2026-11-21T03:59:38Z", utc(21, 3, 59, 38)),
    ("resets at 2026-11-21 05:59:38.5+01:00", utc(21, 4, 59, 38) + timedelta(seconds=0.5)),
    ("until 2026-11-21T04:30", utc(21, 4, 30)),
    ("You've hit your limit · resets 3:59am (UTC)", utc(21, 3, 59)),
    ("resets 4am (UTC)", utc(21, 4)),
    ("resets 4 a.m. (UTC)", utc(21, 4)),
    ("resets 2:58am (UTC)", utc(22, 2, 58)),
    ("resets 2:59am (UTC)", utc(21, 3, 0)),
    ("resets 12am (UTC)", utc(22, 0)),
    ("resets 12:30pm (UTC)", utc(21, 12, 30)),
    ("resets 16:05 UTC", utc(21, 16, 5)),
    ("resets 11:25pm (America/New_York)", utc(21, 4, 25)),
    ("resets 9:30pm (America/New_York)", utc(22, 2, 30)),
    ("resets Nov 24, 11:21pm (Asia/Tokyo)", utc(24, 14, 21)),
    ("resets Nov 24 at 11pm (Asia/Tokyo)", utc(24, 14)),
    ("resets January 2, 5am (UTC)", utc(2, 5, month=1, year=2027)),
    ("try again at 3:44 AM.", utc(21, 3, 44)),
    ("try again at Nov 24th, 2026 2:21 PM.", utc(24, 14, 21)),
    ("try again at Nov 22nd, 2026 12:00 AM", utc(22, 0)),
    ("Your quota will reset after 4h22m7s.", utc(21, 7, 21, 45)),
    ("try again in 2 days 17 hours", utc(23, 19, 59, 38)),
    ("try again in 1 hour, 5 minutes and 2 seconds", utc(21, 4, 4, 40)),
    ("Please retry in 1.5s", utc(21, 2, 59, 39) + timedelta(seconds=0.5)),
    ("in 1 week", utc(28, 2, 59, 38)),
    ("request 1100000000 of 9999999999: resets 3:59am (UTC)", utc(21, 3, 59)),
    ("request 1100000000: resets at 1795233578", utc(21, 3, 59, 38)),
]


@pytest.mark.parametrize(("text", "when"), SAID)
def test_every_form_is_read(text: str, when: datetime) -> None:
    assert read(text, NOW) == when


@pytest.mark.parametrize("text", [text for text, _ in SAID])
def test_what_is_read_is_in_utc_and_the_words_around_it_change_nothing(text: str) -> None:
    found = read(f"Upgrade to Pro (https://example.org/pro) or: {text}", NOW)

    assert found == read(text, NOW)
    assert found is not None
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "here", "when"),
    [
        ("try again at 1:25 PM.", TOKYO, utc(21, 4, 25)),
        ("try again at Nov 24th, 2026 9:22 AM.", NEW_YORK, utc(24, 14, 22)),
        ("until 2026-11-21T04:30", BERLIN, utc(21, 3, 30)),
        ("try again at 2:59 AM.", UTC, utc(21, 3, 0)),
    ],
)
def test_a_time_without_a_zone_is_in_the_zone_of_now(text: str, here: ZoneInfo, when: datetime) -> None:
    assert read(text, NOW.astimezone(here)) == when


def test_a_time_of_day_is_that_of_the_clock_also_on_the_day_the_clocks_change() -> None:
    eve = datetime(2026, 3, 28, 12, 0, tzinfo=BERLIN)

    assert read("resets 5am", eve) == datetime(2026, 3, 29, 5, 0, tzinfo=BERLIN) == utc(29, 3, month=3)


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "resets", "limit reached", "resets 3", "resets 25:00 (UTC)", "resets 13pm (UTC)", "resets 0am"),
        *("resets 3:60am", "resets 3am (Atlantis/Poseidonis)", "resets 3am (America)", "resets 3am (../../etc)"),
        *("1100000000", "2026-11-20T00:00:00Z", "2026-13-45T00:00:00Z"),
        *("Nov 20th, 2026 2:21 PM", "resets Nov 20, 2pm (UTC)", "resets Feb 30, 2pm", "Nov 0, 2pm", "in 0 seconds"),
        *(
            "999999 weeks 999999 weeks",
            "resets Dec 31, 9999 11:59pm (America/New_York)",
            "9999999999",
            "30,000 input tokens per minute",
            "request 0123456789ab",
            "v1.22.333:4",
        ),
    ],
)
def test_rubbish_and_what_has_passed_is_no_time(text: str) -> None:
    assert read(text, NOW) is None


def test_a_day_that_most_years_lack_is_read_in_a_year_that_has_it() -> None:
    assert read("resets Feb 29, 5am (UTC)", utc(27, 0, month=2, year=2028)) == utc(29, 5, month=2, year=2028)


moments = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
zones = st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Apia"])


@given(st.text(max_size=60) | st.text("0123456789:-/|()., amphdTZNovUC+", max_size=40), moments, zones)
@example("\uff19:\uff13\uff10pm", NOW, "UTC")
@example("99999999999999 h", NOW, "UTC")
def test_whatever_is_said_is_a_later_time_or_none(text: str, now: datetime, name: str) -> None:
    found = read(text, now.astimezone(zone(name)))

    assert found is None or (found > now and found.tzinfo is UTC)


@given(moments, st.integers(0, 23), st.integers(0, 59), zones)
def test_a_time_of_day_is_the_next_time_the_clock_there_shows_it(
    now: datetime, hour: int, minute: int, name: str
) -> None:
    half = "pm" if hour >= 12 else "am"
    found = read(f"resets {hour % 12 or 12}:{minute:02}{half} ({name})", now)

    assert found is not None
    assert found - now <= timedelta(hours=25, minutes=1)
    assert found.second == 0


@given(moments, st.integers(1, 170 * 24 * 60), zones)
def test_a_date_and_time_comes_back_as_it_was_written(now: datetime, minutes: int, name: str) -> None:
    then = (now.replace(second=0, microsecond=0) + timedelta(minutes=minutes)).astimezone(zone(name))
    then = then.replace(fold=0)
    text = f"resets {then:%b} {then.day}, {then.hour % 12 or 12}:{then:%M}{'pm' if then.hour >= 12 else 'am'} ({name})"

    assert read(text, now) == (then.astimezone(UTC) if then > now else None)


@given(moments, st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_a_span_is_added_however_it_is_written(
    now: datetime, days: int, hours: int, minutes: int, seconds: int
) -> None:
    later = now + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)

    assert read(f"reset after {days}d{hours}h{minutes}m{seconds}s", now) == later
    assert read(f"in {days} days, {hours} hours, {minutes} minutes and {seconds} seconds", now) == later
