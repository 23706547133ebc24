"""What is sent to the MTA: whole texts or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import milter_protocol as wire
from support.sealing import recorded, services

from carbonseal.keys.signer import Signature
from carbonseal.milter import packets, seal
from carbonseal.milter.archive.spool import Steps
from carbonseal.milter.conversation import Context
from carbonseal.milter.describe import Verdict
from carbonseal.milter.edits import Deeds
from carbonseal.milter.session import Session
from carbonseal.policies.disposition import ACCEPTED, Answer, Disposition
from carbonseal.policies.signing_request import SignatureRequest

REQUEST = SignatureRequest("example.com", "s1", "rsa-sha256")


@pytest.mark.parametrize("odd", ["\0", "a\0b", "\udc80"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda odd: packets.inserted_field(odd, " v", 0), id="name"),
        pytest.param(lambda odd: packets.inserted_field("X", odd, 0), id="value"),
        pytest.param(lambda odd: packets.added_recipient(odd, None), id="recipient"),
        pytest.param(lambda odd: packets.added_recipient(odd, "NOTIFY=NEVER"), id="of-two"),
        pytest.param(lambda odd: packets.added_recipient("<c@z>", odd), id="parameters"),
        pytest.param(lambda odd: packets.reply("451", "4.3.0", odd), id="reply"),
        pytest.param(lambda odd: packets.agreed(6, 0, 0, [(2, odd)]), id="macros"),
    ],
)
def test_a_text_that_would_be_read_cut_is_not_sent(make: Callable[[str], bytes], odd: str) -> None:
    """After a NUL the MTA would take the rest for the next text."""
    with pytest.raises(ValueError, match=r"holds a NUL|surrogates not allowed"):
        make(odd)


REJECTED = Deeds((), (), Answer.REJECT)


@pytest.mark.parametrize(
    ("done", "disposition"),
    [
        pytest.param(
            Deeds((Signature(" a\0b", REQUEST, "", 1, None),), (), Answer.ACCEPT),
            ACCEPTED,
            id="field",
        ),
        pytest.param(Deeds((), ("c@z\0<d@z>",), Answer.ACCEPT), ACCEPTED, id="recipient"),
        pytest.param(REJECTED, Disposition(Answer.REJECT, "550", "5.7.1", "N\0o"), id="reply"),
    ],
)
def test_what_cannot_be_sent_ends_in_the_failure_policy(
    done: Deeds, disposition: Disposition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is to come again; nothing of the text has left."""
    sealed = seal.seal

    def odd(*given: Any, prepared: Callable[[Verdict], Any]) -> Steps[Any]:
        change = {"done": done, "disposition": disposition}
        return sealed(*given, prepared=lambda verdict: prepared(verdict._replace(**change)))

    monkeypatch.setattr(seal, "seal", odd)
    context: Any = Context()
    one = Session(services(tmp_path), 0)
    one.reverse_path(context, b"<a@x>")
    one.recipient(context, b"<b@y>")
    recorded(one.end_of_message(context), tmp_path / "spool")
    assert context.answer == wire.framed(
        b"y", b"451 4.3.0 The message could not be sealed; try again later\0"
    )
