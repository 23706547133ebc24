"""Starting, reloading and stopping under a client's eyes: nobody who is connected is cut off."""

from __future__ import annotations

import time

from support import milter_protocol as wire
from support.carbonseal import Carbonseal, wait_until
from support.milter_client import Answer, Channel, Conversation, Envelope

FIELDS: list[tuple[str | bytes, bytes]] = [("From", b" alice@example.com")]
OFFER = wire.framed(
    wire.OPTNEG, b"".join(number.to_bytes(4) for number in (6, 0x1FF, int(wire.ALL_PROTOCOL)))
)


def is_sealed(conversation: Conversation) -> bool:
    """Send one message; whether it was accepted with signature and copy."""
    outcome = conversation.send_message(Envelope(), FIELDS, b"text\r\n")
    return (
        outcome.final == Answer.ACCEPT
        and len(outcome.inserted) == 1
        and len(outcome.added_recipients) == 1
    )


def reload(service: Carbonseal) -> None:
    mark = service.mark()
    service.reload()
    service.wait_for_log(r"[ \"]ready[ \"]", since=mark)


def test_a_connection_that_has_not_spoken_yet_survives_a_reload(service: Carbonseal) -> None:
    """Accepted by an old worker, negotiated after the reload: the old worker waits for it."""
    silent = Channel(service.socket, timeout=10)
    # The worker takes connections in order: once it has answered this one, it has the silent one.
    with Conversation(service.socket):
        pass
    old = service.children()
    reload(service)
    time.sleep(1)  # longer than a worker without connections needs to leave
    silent.send(OFFER)
    assert silent.receive().command == wire.OPTNEG
    silent.close()
    wait_until(lambda: not set(old) & set(service.children()), "the old worker's leaving")
