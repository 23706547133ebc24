# The compiled twin of incoming.py and usual_message.py, from _incoming.c and _usual_message.c.
from typing import Any

from carbonseal.keys.body_hash import BodyHash
from carbonseal.milter.header_section import HeaderSection
from carbonseal.policies.envelope import Client, Recipient, ReversePath

class Incoming:
    def __init__(self) -> None: ...
    def open(self) -> None: ...
    def next(self, octets: bytes, at: int, /) -> tuple[int, int, bytes]: ...
    def macro(self, name: str, /) -> str | None: ...
    def forget_after(self, command: int, /) -> None: ...
    def forget_all(self) -> None: ...

class Gathered:
    """As `usual_message.PlainGathered`."""

    body: BodyHash
    body_at: float
    client: Client
    envelope_at: float
    fields: list[tuple[str, bytes]]
    header: HeaderSection
    listener: str
    login: str
    login_method: str
    queue_id: str
    recipients: list[Recipient]
    relay: str
    reverse_path: ReversePath
    tls: dict[str, str] | None
    _has_too_many: bool
    _names: tuple[str, ...] | None
    _recipient_octets: int

def take(
    session: Any, incoming: Incoming, octets: bytes, at: int, stage: int, /
) -> tuple[int, int]: ...
