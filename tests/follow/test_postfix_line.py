"""What Postfix's lines say, and what strangers cannot make them say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carbonseal.milter.follow import postfix_line

AT = "2026-11-21T17:28:06.000000Z"
LONG, SHORT = "4jWzgV1kV9zcbwh", "72E35420A1F"
_RESULT = "relay=mx.out.example[192.0.2.1]:25, delay=1.2, delays=0.5/0.1/0.2/0.4, dsn="


def _only(service: str, text: str) -> dict[str, Any]:
    """The one fact of a line, without what all facts of a test share."""
    [(queue_id, fact)] = postfix_line.read(AT, service, text)
    assert queue_id == text.partition(":")[0]
    assert fact.pop("at") == AT
    return fact


CASES = [
    pytest.param(
        "smtpd",
        f"{LONG}: client=mail.out.example[2001:db8::1]:4711, sasl_method=PLAIN, sasl_username=al i",
        {
            "kind": "queued",
            "service": "smtpd",
            "client": "mail.out.example[2001:db8::1]:4711",
            "login": "al i",
        },
        id="client-with-port-and-login",
    ),
    pytest.param(
        "submission/smtpd",
        f"{LONG}: client=unknown[192.0.2.7]",
        {
            "kind": "queued",
            "service": "smtpd",
            "client": "unknown[192.0.2.7]",
            "listener": "submission",
        },
        id="listener-with-a-name",
    ),
    pytest.param(
        "smtpd",
        f"{LONG}: client=unknown[192.0.2.7], orig_queue_id={SHORT}, orig_client=a[192.0.2.9]",
        {
            "kind": "queued",
            "service": "smtpd",
            "client": "unknown[192.0.2.7]",
            "orig_queue_id": SHORT,
        },
        id="back-from-a-content-filter",
    ),
    pytest.param(
        "smtpd",
        f"{LONG}: client=unknown[192.0.2.7], sasl_method=PLAIN, sasl_username=bob, "
        f"sasl_sender=x, orig_queue_id={SHORT}",
        {"kind": "queued", "service": "smtpd", "client": "unknown[192.0.2.7]", "login": "bob"},
        id="what-the-client-chose-is-no-queue-id",
    ),
    pytest.param(
        "cleanup",
        f"{SHORT}: message-id=<a, b=c to=<x>, status=sent (ok)@y>",
        {
            "kind": "queued",
            "service": "cleanup",
            "message_id": "<a, b=c to=<x>, status=sent (ok)@y>",
        },
        id="message-id-that-looks-like-a-delivery",
    ),
    pytest.param(
        "qmgr",
        f"{LONG}: from=<>, size=2307, nrcpt=1 (queue active)",
        {"kind": "queued", "service": "qmgr", "reverse_path": "", "size": 2307, "recipients": 1},
        id="null-reverse-path",
    ),
    pytest.param(
        "qmgr",
        f'{LONG}: from=<"x>, size=1, nrcpt=9 (queue active)"@y.example>, size=3, nrcpt=2 '
        "(queue active)",
        {
            "kind": "queued",
            "service": "qmgr",
            "reverse_path": '"x>, size=1, nrcpt=9 (queue active)"@y.example',
            "size": 3,
            "recipients": 2,
        },
        id="reverse-path-that-looks-like-the-rest",
    ),
    pytest.param(
        "qmgr",
        f"{LONG}: from=<a@b.example>, status=force-expired, returned to sender",
        {"kind": "expired", "reply": "force-expired"},
        id="force-expired",
    ),
    pytest.param("qmgr", f"{LONG}: removed", {"kind": "removed"}, id="removed"),
    pytest.param(
        "smtp",
        f"{LONG}: to=<a@out.example>, orig_to=<team@example.com>, relay=mx.out.example[192.0.2.1]"
        ":25, conn_use=2, delay=0.13, delays=0/0.09/0/0.03, tls=required, dsn=2.0.0, status=sent "
        "(250 2.0.0 Ok (really))",
        {
            "kind": "attempt",
            "service": "smtp",
            "to": "a@out.example",
            "orig_to": "team@example.com",
            "next_hop": "mx.out.example[192.0.2.1]:25",
            "status": "sent",
            "dsn": "2.0.0",
            "delays": [0.0, 0.09, 0.0, 0.03],
            "reply": "250 2.0.0 Ok (really)",
        },
        id="alias-reused-connection-and-tls",
    ),
    pytest.param(
        "local",
        f"{LONG}: to=<root>, relay=local, delay=1e, delays=0/0/0/0, dsn=2.0.0, status=sent (x)",
        None,
        id="a-delay-that-is-no-number",
    ),
    pytest.param(
        "smtp",
        f'{LONG}: to=<"to=<x>, orig_to=<y>, relay=z, status=sent (q)"@d.example>, {_RESULT}5.1.1, '
        "status=bounced (host said: 550 relay=x, dsn=2.0.0, status=sent (ok))",
        {
            "kind": "attempt",
            "service": "smtp",
            "to": '"to=<x>, orig_to=<y>, relay=z, status=sent (q)"@d.example',
            "next_hop": "mx.out.example[192.0.2.1]:25",
            "status": "bounced",
            "dsn": "5.1.1",
            "delays": [0.5, 0.1, 0.2, 0.4],
            "reply": "host said: 550 relay=x, dsn=2.0.0, status=sent (ok)",
        },
        id="hostile-local-part-and-hostile-reply",
    ),
    pytest.param(
        "smtp",
        f'{LONG}: to=<"x>, {_RESULT}2.0.0, status=sent (ok)"@d.example>, {_RESULT}4.0.0, '
        "status=deferred (later)",
        {
            "kind": "attempt",
            "service": "smtp",
            "to": f'"x>, {_RESULT}2.0.0, status=sent (ok)"@d.example',
            "next_hop": "mx.out.example[192.0.2.1]:25",
            "status": "deferred",
            "dsn": "4.0.0",
            "delays": [0.5, 0.1, 0.2, 0.4],
            "reply": "later",
        },
        id="a-whole-delivery-in-a-quoted-local-part",
    ),
    pytest.param(
        "smtp",
        f"{LONG}: to=<x>, {_RESULT}2.0.0, status=sent (ok)@d.example>, {_RESULT}4.0.0, "
        "status=deferred (later)",
        None,
        id="the-same-without-quotes-could-be-either",
    ),
    pytest.param(
        "smtp",
        f"{LONG}: to=<x@d.example>, {_RESULT}5.0.0, status=bounced (>, {_RESULT}2.0.0, "
        "status=sent (ok))",
        None,
        id="a-reply-that-repeats-the-whole-could-be-either",
    ),
    pytest.param(
        "smtp",
        f"{LONG}: to=<x@d.example>, {_RESULT}4.4.1, status=deferred (cut in the midd",
        None,
        id="cut-in-the-reply-or-in-an-address-that-looks-like-one",
    ),
    pytest.param(
        "smtp",
        f"{LONG}: to=<x@d.example>, {_RESULT}4.4.1, status=deferred (" + 1950 * "x" + ")",
        None,
        id="cut-where-a-parenthesis-stood",
    ),
    pytest.param(
        "error",
        f'{LONG}: to=<"q q"@b>, {_RESULT}2.0.0, status=sent (ok)>, relay=none, delay=3.3, '
        "delays=3.3/0/0/0, dsn=5.1.3, status=bounced (bad address syntax)",
        None,
        id="a-domain-that-looks-like-a-result",
    ),
    pytest.param(
        "smtp",
        f"{LONG}: to=<x@d.example>, {_RESULT}4.1.1, status=SOFTBOUNCE (no)",
        {
            "kind": "attempt",
            "service": "smtp",
            "to": "x@d.example",
            "next_hop": "mx.out.example[192.0.2.1]:25",
            "status": "deferred",
            "dsn": "4.1.1",
            "delays": [0.5, 0.1, 0.2, 0.4],
            "reply": "no",
        },
        id="soft-bounce-stays-in-the-queue",
    ),
    pytest.param("smtp", f"{LONG}: to=<x@d.example>, relay=mx", None, id="cut-before-the-status"),
    pytest.param("qmgr", f"{LONG}: from=<xxx", None, id="cut-in-the-reverse-path"),
    pytest.param(
        "cleanup",
        f"{LONG}: message-id=<{'x' * 2000}"[:2000],
        {"kind": "queued", "service": "cleanup"},
        id="a-message-id-that-was-cut-is-none",
    ),
    pytest.param(
        "cleanup",
        f"{LONG}: milter-reject: END-OF-MESSAGE from a.example[192.0.2.1]: 4.7.1 Service "
        "unavailable; from=<a@b> to=<c@d> proto=ESMTP helo=<hold: x>",
        {
            "kind": "rejected",
            "reply": "milter-reject: END-OF-MESSAGE from a.example[192.0.2.1]: 4.7.1 Service "
            "unavailable; from=<a@b> to=<c@d> proto=ESMTP helo=<hold: x>",
        },
        id="rejected-by-a-milter",
    ),
    pytest.param(
        "cleanup",
        f"{LONG}: hold: header X: reject: y from a[192.0.2.1]; from=<a@b>: why",
        {"kind": "held", "reply": "hold: header X: reject: y from a[192.0.2.1]; from=<a@b>: why"},
        id="held-by-header-checks",
    ),
    pytest.param(
        "smtpd",
        f"{LONG}: discard: RCPT from a[192.0.2.1]: <x>: gone; from=<> to=<x@y>",
        {
            "kind": "discarded",
            "reply": "discard: RCPT from a[192.0.2.1]: <x>: gone; from=<> to=<x@y>",
        },
        id="discarded-at-a-recipient-is-all-of-it",
    ),
    pytest.param(
        "pickup",
        f"{LONG}: uid=0 from=<x> orig_id={SHORT}>",
        {"kind": "queued", "service": "pickup", "reverse_path": f"x> orig_id={SHORT}"},
        id="a-sender-that-looks-requeued",
    ),
    pytest.param(
        "postsuper", f"{LONG}: removed", {"kind": "deleted", "reply": "postsuper"}, id="deleted"
    ),
    pytest.param(
        "postsuper",
        f"{LONG}: released from hold",
        {"kind": "released", "reply": "postsuper"},
        id="released",
    ),
    pytest.param(
        "bounce",
        f"{LONG}: sender non-delivery notification: {SHORT}",
        {"kind": "notified", "queue_id": SHORT, "reply": "sender non-delivery notification"},
        id="bounce",
    ),
]


@pytest.mark.parametrize(("service", "text", "expected"), CASES)
def test_a_line_says_its_fact_and_nothing_else(
    service: str, text: str, expected: dict[str, Any] | None
) -> None:
    """Fields are read where Postfix writes them; what has two readings has none (None here)."""
    if expected is None:
        with pytest.raises(postfix_line.Unread):
            postfix_line.read(AT, service, text)
    else:
        assert _only(service, text) == expected


def test_a_requeued_message_is_told_under_both_queue_ids() -> None:
    """postsuper -r gives a message a new queue id; only pickup's line knows both."""
    said = postfix_line.read(AT, "pickup", f"{LONG}: uid=0 from=<a@b> orig_id={SHORT}")
    queued = {"service": "pickup", "reverse_path": "a@b", "orig_queue_id": SHORT}
    assert said == (
        (LONG, {"kind": "queued", "at": AT, **queued}),
        (SHORT, {"kind": "requeued", "at": AT, "queue_id": LONG}),
    )


@pytest.mark.parametrize(
    ("service", "text"),
    [
        pytest.param("smtpd", f"NOQUEUE: reject: RCPT from x: to=<{LONG}: removed>", id="noqueue"),
        pytest.param(
            "smtpd", f"{LONG}: reject: RCPT from x[1]: 550 no", id="one-recipient-refused"
        ),
        pytest.param("smtpd", f"{LONG}: to=<a@b>, {_RESULT}2.0.0, status=sent (x)", id="smtpd-to"),
        pytest.param("smtp", f"{LONG}: host mx said: 450 {LONG}: removed", id="interim-reply"),
        pytest.param("smtp", "warning: x: to=<a@b>", id="warning"),
        pytest.param("postsuper", "Deleted: 1 message", id="summary"),
        pytest.param("cleanup", f"{LONG}: warning: header X: reject: y", id="warned-of-a-header"),
        pytest.param("qmgr", f"{LONG}: removed by x", id="not-quite-removed"),
        pytest.param("qmgr", f"{LONG[:9]}: removed", id="no-queue-id"),
    ],
)
def test_other_lines_say_nothing(service: str, text: str) -> None:
    """What is no fact about a message in the queue is passed over without a word."""
    assert postfix_line.read(AT, service, text) == ()


_services = st.sampled_from(
    "smtpd cleanup qmgr smtp lmtp local virtual pipe error discard bounce pickup postsuper".split()
)
_pieces = st.sampled_from(
    [
        *(f"{LONG}: ", "to=<", ">, orig_to=<", ">, relay=", "from=<", ", status=sent (", '"', "\\"),
        *(_RESULT, "2.0.0, status=bounced (", "client=", "a[192.0.2.1]", ", sasl_username="),
        *(
            ", sasl_sender=",
            ", orig_queue_id=",
            "uid=0 ",
            " orig_id=",
            "message-id=<",
            ")",
            "\udcff",
        ),
        *(
            "> (queue active)",
            ", size=1, nrcpt=1 (queue active)",
            "@d.example",
            "\u0663",
            "x " * 50,
        ),
    ]
)


@given(_services, st.lists(st.one_of(_pieces, st.text(max_size=10)), max_size=30))
def test_no_line_is_a_surprise(service: str, pieces: list[str]) -> None:
    """Whatever a line holds, it is read, passed over, or Unread."""
    try:
        said = postfix_line.read(AT, service, f"{LONG}: " + "".join(pieces))
    except postfix_line.Unread:
        return
    for queue_id, fact in said:
        assert queue_id == LONG or fact["kind"] == "requeued"
        assert fact["kind"] in {
            *("queued", "attempt", "rejected", "discarded", "held", "released"),
            *("deleted", "requeued", "expired", "removed", "notified"),
        }


_hostile = st.lists(
    st.one_of(
        st.sampled_from(
            [
                ">, relay=",
                f">, {_RESULT}2.0.0, status=sent (",
                ">, orig_to=<",
                "to=<",
                ")",
                "@",
                ",",
            ]
        ),
        st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cc"]), max_size=8),
    ),
    max_size=6,
).map("".join)


def _quoted(local: str) -> str:
    return f'"{local}"@out.example'


@given(local=_hostile, original=_hostile, reply=_hostile, has_original=st.booleans())
def test_a_delivery_is_read_as_it_was_written_or_not_at_all(
    local: str, original: str, reply: str, has_original: bool
) -> None:
    """No quoted address and no reply can change whom a delivery was for, or how it ended."""
    to, origin = _quoted(local), _quoted(original)
    middle = f">, orig_to=<{origin}" if has_original else ""
    text = f"{LONG}: to=<{to}{middle}>, {_RESULT}5.1.1, status=bounced ({reply})"
    try:
        fact = _only("smtp", text)
    except postfix_line.Unread:
        assert f">, {_RESULT}2.0.0, status=sent (" in reply  # it could have been a domain's
        return
    assert (fact["to"], fact.get("orig_to")) == (to, origin if has_original else None)
    assert (fact["status"], fact["dsn"], fact["reply"]) == ("bounced", "5.1.1", reply)


@given(local=_hostile, reply=_hostile)
def test_without_quotes_a_hostile_line_is_not_read_wrongly(local: str, reply: str) -> None:
    """info_log_addr_form = internal, as before Postfix 3.6: right, or not at all.

    An original recipient cannot be told from one that a local part makes up, which such an address
    does to its own message only.
    """
    assume(">, orig_to=<" not in local)
    to = f"x{local}@out.example"
    text = f"{LONG}: to=<{to}>, {_RESULT}5.1.1, status=bounced ({reply})"
    try:
        fact = _only("smtp", text)
    except postfix_line.Unread:
        return
    assert (fact["to"], fact["status"], fact["reply"]) == (to, "bounced", reply)


@pytest.mark.parametrize(
    "piece", ['"', "\\", ">, relay=", ", sasl_sender=", f">, {_RESULT}", "x>, "]
)
def test_a_long_hostile_line_takes_linear_time(piece: str) -> None:
    """Lines are bounded, and so is the work: a line of 16,384 octets costs no second."""
    for start in ("to=<", 'to=<"', "client=a[1], sasl_username=", "from=<"):
        for service in ("smtp", "smtpd", "qmgr"):
            try:
                postfix_line.read(AT, service, f"{LONG}: {start}{piece * (16_000 // len(piece))}")
            except postfix_line.Unread:
                pass
