"""When a milter could not be reached, as Postfix complains of it."""

from __future__ import annotations

import pytest

from carbonseal.milter.follow.milter_faults import MilterFaults

AT = "2026-11-21T17:28:06.000000Z"


@pytest.mark.parametrize(
    ("service", "text", "milter"),
    [
        pytest.param(
            "inside/smtpd",
            "warning: connect to Milter service unix:/run/c.sock: Connection refused",
            "unix:/run/c.sock",
            id="refused",
        ),
        pytest.param(
            "cleanup",
            "warning: milter inet:127.0.0.1:8894: can't read SMFIC_MAIL reply packet header: EOF",
            "inet:127.0.0.1:8894",
            id="gone-in-the-middle",
        ),
        pytest.param("smtp", "warning: milter x: y", None, id="another-service"),
        pytest.param("smtpd", "warning: hostname x does not resolve", None, id="another-warning"),
        pytest.param("smtpd", "warning: milter said x: y", None, id="no-milters-name"),
    ],
)
def test_a_complaint_is_known(service: str, text: str, milter: str | None) -> None:
    """By the services that speak to milters, in their words."""
    faults = MilterFaults()
    faults.take(AT, service, text)
    assert [one["milter"] for one in faults.told()] == ([] if milter is None else [milter])


def test_complaints_of_a_minute_are_one_span() -> None:
    """And a state brings them back; what is no span in it is let be."""
    faults = MilterFaults()
    for minute, second in ((28, 6), (28, 50), (29, 40), (45, 0)):
        faults.take(
            f"2026-11-21T17:{minute}:{second:02d}.000000Z",
            "smtpd",
            "warning: connect to Milter service unix:/x: No such file or directory",
        )
    told = faults.told()
    assert [(one["since"][14:19], one["until"][14:19], one["count"]) for one in told] == [
        ("28:06", "29:40", 3),
        ("45:00", "45:00", 1),
    ]
    state = {"milter_faults": [*told, "x", {"since": 1, "until": AT, "count": 1}]}
    assert MilterFaults.of(state).told() == told
    assert MilterFaults.of({"milter_faults": 7}).told() == []
