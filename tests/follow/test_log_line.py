"""Lines of log files before Postfix's own words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.follow.log_line import Framing, Services


def _at(stamp: str, reference: str = "2026-11-21T12:00:00+00:00") -> str | None:
    framing = Framing(Services("postfix"))
    framing.renew(datetime.fromisoformat(reference).timestamp())
    framed = framing.split(f"{stamp} mx1 postfix/smtp[123]: x".encode())
    return None if framed is None else framed[0]


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zone of this process."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        pytest.param("2026-11-21T17:16:47.123456+01:00", "2026-11-21T16:16:47.123456Z", id="zone"),
        pytest.param("2026-11-21T17:16:47.12Z", "2026-11-21T17:16:47.120000Z", id="short-fraction"),
        pytest.param("2026-11-21T17:16:47,123456789-0230", "2026-11-21T19:46:47.123456Z", id="ns"),
        pytest.param("2026-11-21T17:16:47Z", "2026-11-21T17:16:47.000000Z", id="no-fraction"),
        pytest.param("2026-13-21T17:16:47Z", None, id="month-13"),
        pytest.param("0001-01-01T00:00:00+14:00", None, id="before-the-calendar"),
        pytest.param("Xxx 21 17:16:47", None, id="no-month"),
        pytest.param("Nov 31 17:16:47", None, id="no-day"),
        pytest.param("1795282126.123", None, id="another-form"),
    ],
)
def test_stamps_become_utc_with_microseconds(stamp: str, expected: str | None) -> None:
    """Every form that names its zone is exact; what is none is no line."""
    assert _at(stamp) == expected


@pytest.mark.parametrize(
    ("zone", "stamp", "reference", "expected"),
    [
        pytest.param(
            *("UTC", "Nov 21 17:16:47", "2026-11-21T17:16:48+00:00"),
            "2026-11-21T17:16:47.000000Z",
            id="now",
        ),
        pytest.param(
            *("UTC", "Dec 31 23:59:59", "2027-01-01T00:00:01+00:00"),
            "2026-12-31T23:59:59.000000Z",
            id="last-year",
        ),
        pytest.param(
            *("UTC", "Jan  1 00:00:01", "2026-12-31T23:59:59+00:00"),
            "2027-01-01T00:00:01.000000Z",
            id="a-clock-ahead-of-the-turn",
        ),
        pytest.param(
            *("UTC", "Nov 23 17:16:47", "2026-11-21T17:16:48+00:00"),
            "2025-11-23T17:16:47.000000Z",
            id="not-the-day-after-tomorrow",
        ),
        pytest.param(
            *("UTC", "Feb 29 08:00:00", "2026-11-21T17:16:48+00:00"),
            "2024-02-29T08:00:00.000000Z",
            id="leap-day",
        ),
        pytest.param(
            *("Europe/Berlin", "Jul  1 17:16:47", "2026-11-21T17:16:48+00:00"),
            "2026-07-01T15:16:47.000000Z",
            id="local-summer-time",
        ),
        pytest.param(
            *("Europe/Berlin", "Jan  1 00:30:00", "2026-12-31T23:31:00+00:00"),
            "2026-12-31T23:30:00.000000Z",
            id="new-year-comes-earlier-in-the-east",
        ),
    ],
    indirect=["zone"],
)
@pytest.mark.usefixtures("zone")
def test_the_missing_year_is_found(stamp: str, reference: str, expected: str) -> None:
    """A stamp without a year is of the latest year that makes sense."""
    assert _at(stamp, reference) == expected


@pytest.mark.parametrize(
    ("name", "program", "service"),
    [
        pytest.param("postfix", "postfix/smtp", "smtp", id="usual"),
        pytest.param(
            "postfix", "postfix/submission/smtpd", "submission/smtpd", id="service-with-a-name"
        ),
        pytest.param("postfix", "postfix-out/smtp", "smtp", id="another-instance"),
        pytest.param("postfix", "postfixed/smtp", None, id="another-program"),
        pytest.param("postfix", "postfix", None, id="no-service"),
        pytest.param("postfix", "sshd", None, id="sshd"),
        pytest.param("postfix-out", "postfix/smtp", None, id="not-the-instance"),
        pytest.param("mail/out", "mail/out/smtp", "smtp", id="a-name-with-a-slash"),
        pytest.param("mail/out", "mail/in/smtp", None, id="another-name-with-a-slash"),
    ],
)
def test_services_are_known_by_their_program(name: str, program: str, service: str | None) -> None:
    """`syslog_name` decides which programs are Postfix's, and the rest is the service."""
    assert Services(name).of(program.encode()) == service


def test_lines_of_one_second_stay_in_order() -> None:
    """Where a log tells no more than seconds, later lines sort later; other programs count too."""
    framing = Framing(Services("postfix"))
    framing.renew(datetime(2026, 11, 21, 18, tzinfo=UTC).timestamp())
    lines = [
        b"Nov 21 17:16:47 h postfix/smtp[1]: a",
        b"Nov 21 17:16:47 h sshd[1]: b",
        b"Nov 21 17:16:47 h postfix/smtp[1]: c",
        b"Nov 21 17:16:48 h postfix/smtp[1]: d",
    ]
    framed = [one for line in lines if (one := framing.split(line))]
    assert [at[-9:] for at, _, _ in framed] == ["7.000000Z", "7.000002Z", "8.000000Z"]
    framing.begin(b"\n".join(lines[:2]) + b"\n", is_whole=False)
    assert framing.split(lines[2]) == framed[1]


def test_a_new_file_goes_on_in_the_second_of_the_old_one() -> None:
    """Rotation within a second: the lines of the new file sort behind those of the old."""
    framing = Framing(Services("postfix"))
    framing.renew(datetime(2026, 11, 21, 18, tzinfo=UTC).timestamp())
    line = b"Nov 21 17:16:47 h postfix/smtp[1]: a"
    old = [framing.split(line) for _ in range(3)]
    framing.begin(b"", is_whole=True)
    new = [framing.split(line) for _ in range(3)]
    assert sorted(old + new, key=str) == old + new
    framing.begin(line + b"\n", is_whole=True)
    assert framing.split(line) == new[1]
    assert framing.split(line.replace(b":47", b":48")) == (
        "2026-11-21T17:16:48.000000Z",
        *new[0][1:],
    )


@given(st.binary(max_size=300))
def test_no_octets_are_a_surprise(line: bytes) -> None:
    """Any line is one of Postfix's or none, without an error."""
    framing = Framing(Services("postfix"))
    framing.split(line)
    framing.split(b"Nov 21 17:16:47 h postfix/" + line)
    framing.split(b"2026-11-21T17:16:47" + line + b" h postfix/smtp[1]: x")
