"""What was decided of a message is what is decided of the next one that is the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from carbonseal.keys.keyring import EMPTY, Keyring, SigningKey
from carbonseal.milter import config, precedents
from carbonseal.milter.config import Configuration
from carbonseal.milter.decisions import Said, decide
from carbonseal.milter.precedents import Precedents
from carbonseal.milter.transaction import Connection, Transaction
from carbonseal.policies import boundary
from carbonseal.policies.archive_outage import WELL, Outlook
from carbonseal.policies.disposition import FailureClass
from carbonseal.policies.envelope import Client
from carbonseal.policies.signing_request import ED25519, KeyFacts

DIVERTED = Outlook(*[frozenset({"archive@archive.example.net"})] * 2)
ARCHIVE = {
    "recipients": ["archive@archive.example.net"],
    "alternate": ["second@archive.example.net"],
}


class Message(NamedTuple):
    """One that was heard; few values of each kind, so that many are alike in all but one."""

    address: str = "192.0.2.7"
    port: int = 40_000
    helo: str = "mail.example.com"
    listener: str = ""
    login: str = ""
    argument: bytes = b"<ann@example.com>"
    resolved: str | None = "ann@example.com"
    size: bytes = b"SIZE=100"
    recipients: tuple[tuple[bytes, str | None, str | None], ...] = (
        (b"<bob@remote.test>", "bob@remote.test", "smtp"),
    )
    parameter: bytes | None = None  # of RCPT
    authors: tuple[bytes, ...] = (b" ann@example.com",)
    names: tuple[str, ...] = ("To", "Subject")

    def heard(self) -> Transaction:
        """As the MTA tells it."""
        client = Client(self.address, self.port, "unknown", self.helo)
        connection = Connection(client, self.listener, "mx1.example.com")
        made = Transaction(connection, (self.argument, self.size), self.resolved, "relaxed")
        made.login = self.login
        for argument, resolved, mailer in self.recipients:
            more = () if self.parameter is None else (self.parameter,)
            made.add_recipient((argument, *more), resolved, mailer, "[192.0.2.25]")
        for value in self.authors:
            made.add_field("From", value)
        for name in self.names:
            made.add_field(name, b" something")
        return made


PEOPLE = (
    (b"<bob@remote.test>", "bob@remote.test", "smtp"),
    (b"<bob@remote.test>", "bob@remote.test", "error"),
    (b"<bob@remote.test>", "eve@example.com", "smtp"),
    (b"<ann@example.com>", None, None),
    (b"<archive@archive.example.net>", "archive@archive.example.net", "smtp"),
    (b"<>", None, None),
)
MESSAGES = st.builds(
    Message,
    address=st.sampled_from(["192.0.2.7", "198.51.100.9", "127.0.0.1", "203.0.113.1", ""]),
    port=st.sampled_from([0, 25, 40_000]),
    helo=st.sampled_from(["mail.example.com", "x"]),
    listener=st.sampled_from(["", "submission"]),
    login=st.sampled_from(["", "ann", "bob"]),
    argument=st.sampled_from([b"<ann@example.com>", b"<>", b"<ann@remote.test>"]),
    resolved=st.sampled_from([None, "", "ann@example.com"]),
    size=st.sampled_from([b"SIZE=100", b"BODY=8BITMIME"]),
    recipients=st.lists(st.sampled_from(PEOPLE), min_size=0, max_size=2).map(tuple),
    parameter=st.sampled_from([None, None, b"NOTIFY=NEVER"]),
    authors=st.lists(
        st.sampled_from([b" ann@example.com", b" ann@example.org", b" nobody", b" x@remote.test"]),
        max_size=2,
    ).map(tuple),
    names=st.sampled_from([("To", "Subject"), ("Subject", "To"), ("X",) * 900, ()]),
)


def ring(*sdids: str) -> Keyring:
    """A keyring with a key of its own for each."""
    return Keyring(
        {
            sdid: (SigningKey(KeyFacts(sdid, "s1", ED25519), ed25519.Ed25519PrivateKey.generate()),)
            for sdid in sdids
        }
    )


RINGS = (
    ring("example.com"),
    ring("example.com", "example.org"),
    Keyring(ring("example.org").keys, problems={"example.com": "it cannot be read."}),
    EMPTY,
)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """One in which every policy has something to say."""
    folder = tmp_path_factory.mktemp("precedents")
    return configured(folder, {})


def configured(folder: Path, more: dict[str, Any]) -> Configuration:
    for name in ("keys", "spool"):
        (folder / name).mkdir(exist_ok=True)
    path = folder / "carbonseal.yaml"
    sections = {
        "ours": {
            "domains": ["example.com", "example.org"],
            "networks": ["192.0.2.0/24"],
            "listeners": ["submission"],
            "local_submission": True,
            "peers": ["198.51.100.0/24"],
        },
        "signing": {"keys": str(folder / "keys"), "logins": {"ann": ["*@example.com"]}},
        "archive": ARCHIVE,
        "record": {"spool": str(folder / "spool")},
        "retention": {
            "classes": {"brief": {"keep": "1y"}, "long": {"keep": "9y"}},
            "rules": [
                {"logins": ["ann"], "use": "brief"},
                {"author": "*@example.org", "use": "long"},
            ],
        },
    }
    path.write_text(yaml.safe_dump(sections | more))
    return config.load(path)


def deciding(
    configuration: Configuration, complaint: Callable[[], str | None] = lambda: None
) -> Precedents:
    return Precedents(configuration, configuration.archive.all_recipients(), complaint)


@settings(max_examples=300)
@given(data=st.data())
def test_every_answer_is_what_the_policies_say(
    data: st.DataObject, configuration: Configuration
) -> None:
    """Whatever came before, with whichever keys, and whether copies arrive or not."""
    said = ""
    known = deciding(configuration, lambda: said)
    turns = st.tuples(MESSAGES, st.sampled_from(RINGS), st.sampled_from([WELL, DIVERTED]))
    some = data.draw(st.lists(turns, min_size=1, max_size=6))
    for number, (message, keyring, outlook) in enumerate(some + some):
        said = f"nothing can be read {number}"
        assert known.decide(message.heard(), keyring, outlook) == decide(
            Said.by(message.heard()),
            configuration,
            keyring,
            configuration.archive.all_recipients(),
            key_complaint=lambda: said,  # noqa: B023  (asked before it is another)
            outlook=outlook,
        )


def test_a_message_that_comes_again_is_not_decided_again(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over another connection, with another size: policies look at neither."""
    known, asked = deciding(configuration), []
    classify = boundary.classify
    monkeypatch.setattr(boundary, "classify", lambda *given: asked.append(1) or classify(*given))
    first = known.decide(Message().heard(), RINGS[0], WELL)
    again = Message(port=50_001, size=b"SIZE=999").heard()
    assert known.decide(again, RINGS[0], WELL) is first
    assert len(asked) == 1
    known.decide(Message(helo="other").heard(), RINGS[0], WELL)
    assert len(asked) == 2


def test_a_key_that_is_gone_signs_nothing_more(configuration: Configuration) -> None:
    """What was planned with it is forgotten as soon as another keyring is there."""
    known = deciding(configuration)
    assert known.decide(Message().heard(), RINGS[0], WELL).signing.requests
    assert not known.decide(Message().heard(), RINGS[2], WELL).signing.requests
    assert known.decide(Message().heard(), RINGS[0], WELL).signing.requests


def test_a_complaint_about_the_keys_is_heard_each_time(configuration: Configuration) -> None:
    """Without any key it decides whether mail may leave unsigned."""
    said: str | None = None
    known = deciding(configuration, lambda: said)
    assert known.decide(Message().heard(), EMPTY, WELL).signing.failure is None
    said = "the keys cannot be read."
    refused = known.decide(Message().heard(), EMPTY, WELL).signing.failure
    assert refused is FailureClass.UNREADABLE_KEY


def test_no_keyring_lives_longer_for_what_was_decided(configuration: Configuration) -> None:
    """Workers tell by its end that a key is in nobody's hands any more."""
    known, used = deciding(configuration), ring("example.com")
    known.decide(Message().heard(), used, WELL)
    is_there = weakref.ref(used)
    del used
    gc.collect()
    assert is_there() is None


def test_strangers_cannot_fill_the_memory(configuration: Configuration) -> None:
    """Few are remembered, and none that is long."""
    known = deciding(configuration)
    for number in range(precedents._REMEMBERED + 50):
        address = b"<u%d@remote.test>" % number
        known.decide(Message(recipients=((address, None, None),)).heard(), RINGS[0], WELL)
    remembered: Any = known._known[1]
    assert remembered.cache_info().currsize == precedents._REMEMBERED
    before = remembered.cache_info()
    for long in (
        Message(helo="x" * 5_000),
        Message(login="x" * 5_000),
        Message(resolved="x" * 5_000),
        Message(argument=b"<%b@remote.test>" % (b"x" * 5_000)),
        Message(recipients=((b"<%b@remote.test>" % (b"x" * 5_000), None, None),)),
        Message(recipients=((b"<x@remote.test>", None, "x" * 5_000),)),
        Message(parameter=b"x" * 5_000),
        Message(authors=(b" " + b"x" * 5_000,)),
        Message(names=("X" * 70,) * 70),
    ):
        known.decide(long.heard(), RINGS[0], WELL)
        known.decide(long.heard(), RINGS[0], WELL)
    assert remembered.cache_info().hits == before.hits
    assert remembered.cache_info().misses == before.misses + 18


def test_nothing_is_remembered_while_other_maps_are_compared(tmp_path: Path) -> None:
    """They may look at anything of the envelope."""
    maps = tmp_path / "recipient_bcc"
    maps.write_text("@example.com archive@archive.example.net\n")
    compare = {"compare": "bcc_maps", "bcc_maps": {"recipient": f"texthash:{maps}"}}
    compared = configured(tmp_path, {"archive": ARCHIVE | compare})
    known = deciding(compared)
    first, second = (known.decide(Message().heard(), RINGS[0], WELL) for _ in range(2))
    assert first == second
    assert first is not second
