"""Messages that are counted without being sealed."""

from __future__ import annotations

from carbonseal.milter.status.counters import Facts, Tally


def count(
    tally: Tally,
    about: Facts,
    *,
    octets: int = 0,
    times: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
) -> None:
    """One message; `times`, in seconds, of header, body, the record and the whole."""
    header, body, recorded, whole = times
    signed = whole - recorded
    measures = (octets, -body - header, -body, (signed, signed, signed))
    tally.message((tally.cells[about[:-1], about.sdids], measures), 0.0, whole)
