"""Event lines like those of the follower, and the facts in them."""

from __future__ import annotations

import itertools
from typing import Any

from carbonseal.milter.archive import event_id, record
from support.archive import START

RELAY = "mx1.example.com"
Fact = dict[str, Any]
_salts = itertools.count(1)


def at(seconds: float) -> str:
    """A time as facts carry it, seconds after START."""
    return record.timestamp(START + seconds)


def client(seconds: float = 0.0, **more: Any) -> Fact:
    """smtpd has taken a message up."""
    return {
        "kind": "queued",
        "at": at(seconds),
        "service": "smtpd",
        "client": "desk.example.com[192.0.2.7]",
        **more,
    }


def active(seconds: float = 0.0, **more: Any) -> Fact:
    """The queue manager has it."""
    return {
        "kind": "queued",
        "at": at(seconds),
        "service": "qmgr",
        "reverse_path": "alice@example.com",
        "size": 1202,
        "recipients": 2,
        **more,
    }


def attempt(to: str, status: str = "sent", seconds: float = 1.0, **more: Any) -> Fact:
    """An agent was done with a recipient."""
    domain = to.rpartition("@")[2]
    code = {"sent": "2.0.0", "deferred": "4.4.1"}.get(status, "5.1.1")
    replies = {
        "sent": "250 2.0.0 Ok: queued as 4dG6nF2kz9z2pXq",
        "deferred": f"connect to mx.{domain}[198.51.100.7]:25: Connection timed out",
        "bounced": f"host mx.{domain}[198.51.100.7] said: 550 5.1.1 <{to}>: Recipient address "
        "rejected: User unknown (in reply to RCPT TO command)",
    }
    return {
        "kind": "attempt",
        "at": at(seconds),
        "service": "smtp",
        "to": to,
        "next_hop": f"mx.{domain}[198.51.100.7]:25",
        "status": status,
        "dsn": code,
        "delays": [0.03, 0.01, 0.12, 0.25],
        "reply": replies.get(status, ""),
        **more,
    }


def change(kind: str, seconds: float = 2.0, **more: Any) -> Fact:
    """Something happened to the whole message."""
    return {"kind": kind, "at": at(seconds), **more}


def build(queue_id: str, *facts: Fact, relay: str = RELAY, **changes: Any) -> dict[str, Any]:
    """An event line as the follower makes it; changes replace whole keys."""
    content: dict[str, Any] = {
        "event": "delivery",
        "v": 1,
        "relay": relay,
        "queue_id": queue_id,
        "facts": list(facts),
        "source": {"turn": 1, "file": "/var/log/mail.log", "inode": 7, "offset": 1234},
        "event_id": event_id.event_id(relay, queue_id, facts),
        "salt": f"{next(_salts):032x}",
    }
    return content | changes


def delivered(queue_id: str, *recipients: str, seconds: float = 0.0) -> list[dict[str, Any]]:
    """The lines of a message that went well."""
    return [
        build(queue_id, client(seconds - 0.2, login="alice")),
        build(
            queue_id,
            {
                "kind": "queued",
                "at": at(seconds - 0.1),
                "service": "cleanup",
                "message_id": "<1.report@example.com>",
            },
            active(seconds + 0.1),
            *(attempt(one, seconds=seconds + 0.5) for one in recipients),
            change("removed", seconds + 0.6),
        ),
    ]
