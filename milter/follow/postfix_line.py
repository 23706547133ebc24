"""What one line of Postfix's log says of a message: its queue id and a fact.

Promises: pure, linear in the length of the line, and anchored: a field is read where Postfix writes
it and nowhere else, so that what strangers put into addresses, HELO names, message-ids and replies
stays a value.  A line that could be read in two ways is not read at all.  What a line does not say
is absent from its fact.  Line formats: Postfix 2.3 to 3.11, its defaults and their variants
(`enable_long_queue_ids`, `smtpd_client_port_logging`, `info_log_addr_form`, TLS summaries).

Facts, each with `kind` and `at`:
    queued      service, and of listener (what an smtpd calls itself beside that), client, login,
                orig_queue_id, message_id, reverse_path, size, recipients what that service says;
                only qmgr's proves that it is in the queue
    attempt     service, to, orig_to, next_hop, status, dsn, delays, reply
    rejected, discarded, held     reply (which may be absent)
    released, deleted, requeued, expired, removed     reply, or queue_id of what followed
    notified    queue_id of the notification, reply (what kind it is)

Raises: Unread, for a line that should be a fact and cannot be read.

Does not: know dates, files or the journal (`log_line`, `log_file`, `journal`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

Fact = dict[str, Any]
Said = tuple[tuple[str, Fact], ...]  # queue ids and what is said of them

# msg_output(3) of Postfix cuts its text there, be it in the middle of a value.
CUT: Final = 2000  # octets

_SHORT_ID = r"[0-9A-F]{6,24}"
_LONG_ID = r"[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,32}"  # base 52: no vowels
QUEUE_ID: Final = f"(?:{_SHORT_ID}|{_LONG_ID})"
_START = re.compile(f"({QUEUE_ID}): ")
# Neither a digit nor a space of another script may pass for one that Postfix wrote.
_FLAGS = re.ASCII | re.DOTALL

# Behind the addresses of a delivery; nothing in it comes from strangers before the parenthesis.
_RESULT = (
    r">, relay=([^\s,]+)(?:, conn_use=\d{1,9})?, delay=[\d.]{1,20}"
    r", delays=([\d.]{1,20})/([\d.]{1,20})/([\d.]{1,20})/([\d.]{1,20})"
    r"(?:, tls=[^\s,]{1,200})?, dsn=(\d\.\d{1,3}\.\d{1,3}), status=([A-Za-z-]{1,30}) \("
)
# An address as RFC 5321 writes it, which is how Postfix 3.6 and later log it: what is unusual in
# the local part stands between quotes.
_QUOTED = r'"(?:[^"\\]|\\.)*"(?:@[^\s<>"\\]*)?'
_RESULT_AT = re.compile(_RESULT, _FLAGS)
_QUOTED_TO = re.compile(f"to=<({_QUOTED})(?:>, orig_to=<({_QUOTED}|[^>]*))?{_RESULT}", _FLAGS)
_QUOTED_ORIGINAL = re.compile(f"to=<([^>]*)>, orig_to=<({_QUOTED}){_RESULT}", _FLAGS)
_BORDER = ">, relay="
# With soft_bounce Postfix defers what it would have bounced, and the message stays in the queue.
_STATUS = {"SOFTBOUNCE": "deferred"}
_ORIGINAL = ">, orig_to=<"

_ACTIVE = re.compile(r"from=<(.*)>, size=(\d{1,15}), nrcpt=(\d{1,9}) \(queue active\)", _FLAGS)
_RETURNED = re.compile(r"from=<.*>, status=((?:force-)?expired), returned to sender", _FLAGS)
_CLIENT = re.compile(
    r"client=([^\s\[\],]*\[[^\s\[\],]*\](?::\d{1,5})?)"
    r"(?:, sasl_method=[^\s,]*)?(?:, sasl_username=(.*?))?(?:, sasl_sender=(.*?))?"
    rf"(?:, orig_queue_id=({QUEUE_ID}|NOQUEUE))?(?:, orig_client=([^\s\[\],]*\[[^\s\[\],]*\]))?",
    _FLAGS,
)
_PICKUP = re.compile(rf"uid=\d{{1,10}} from=<(.*)>(?: orig_id=({QUEUE_ID}))?", _FLAGS)
_NOTICE = re.compile(rf"([a-z -]{{4,60}} notification): ({QUEUE_ID})")
_ACTION = re.compile(r"(milter-)?(reject|discard|hold): ", _FLAGS)
_WHOLE = re.compile(r"(?:END-OF-MESSAGE|DATA) from ")
_ACTIONS = {"reject": "rejected", "discard": "discarded", "hold": "held"}
_POSTSUPER = {
    "placed on hold": "held",
    "released from hold": "released",
    "removed": "deleted",
    "requeued": "requeued",
    "expired": "expired",
}
_NO_DELIVERY = frozenset(("smtpd", "pickup", "postsuper", "postscreen", "master", "anvil"))


class Unread(ValueError):
    """A line that should say something of a message, and cannot be read without doubt."""


def read(at: str, service: str, text: str) -> Said:
    """What the line `text` of `service` (qmgr, submission/smtpd) says; () for nothing of use.

    `at` goes into the facts as it is.  Raises: Unread.
    """
    start = _START.match(text)
    if start is None:
        return ()  # NOQUEUE, connections, warnings, statistics
    queue_id = start[1]
    said = text[start.end() :]
    listener, _, service = service.rpartition("/")
    if said.startswith("to=<"):
        if service in _NO_DELIVERY:
            return ()
        return ((queue_id, _attempt(at, queue_id, service, said)),)
    reader = _READERS.get(service)
    found = () if reader is None else reader(at, queue_id, said)
    if listener and service == "smtpd" and found and found[0][1]["kind"] == "queued":
        found[0][1]["listener"] = listener
    return found


def _attempt(at: str, queue_id: str, service: str, said: str) -> Fact:
    to, original, found = _addresses(said)
    reply = said[found.end() :]
    if not reply.endswith(")") or is_cut(f"{queue_id}: {said}"):
        # What looks like the result may be a part of an address whose own result was cut off.
        raise Unread("it was cut")
    relay, *delays, dsn, status = found.groups()[-7:]
    fact: Fact = {"kind": "attempt", "at": at, "service": service, "to": to}
    if original is not None:
        fact["orig_to"] = original
    fact["next_hop"] = relay
    fact["status"] = _STATUS.get(status, status)
    fact["dsn"] = dsn
    try:
        fact["delays"] = list(map(float, delays))
    except ValueError:
        raise Unread("its delays are no numbers") from None
    fact["reply"] = reply[:-1]
    return fact


def _addresses(said: str) -> tuple[str, str | None, re.Match[str]]:
    """Recipient, original recipient, and where the result stands."""
    at = said.find(_BORDER)
    head = said[4:at]
    if at < 0 or '"' in head or head.count(_ORIGINAL) > 1 or said.find(_BORDER, at + 1) >= 0:
        return _doubtful(said)
    found = _RESULT_AT.match(said, at)
    if found is None:
        raise Unread("it is no delivery, or was cut before its status")
    to, border, original = head.partition(_ORIGINAL)
    return to, (original if border else None), found


def _doubtful(said: str) -> tuple[str, str | None, re.Match[str]]:
    """The same where an address is quoted, or it or a reply repeats the form of the line."""
    for pattern in (_QUOTED_TO, _QUOTED_ORIGINAL):
        quoted = pattern.match(said)
        # sendmail(1) takes a domain that looks like the rest of the line; no quotes cover that.
        if quoted is not None and not _results(said[quoted.end() :]):
            return quoted[1], quoted[2], quoted
    # Logged without quotes (Postfix before 3.6), a local part may look like the rest of the line;
    # and so may a reply.  It is certain only where no more than one reading is possible.
    results = _results(said)
    if len(results) == 1:
        [found] = results
        head = said[4 : found.start()]
        if head.count(_ORIGINAL) <= 1 and _BORDER not in head:
            to, border, original = head.partition(_ORIGINAL)
            return to, (original if border else None), found
    raise Unread("it could be read in more than one way")


def _results(said: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    at = said.find(_BORDER)
    while at >= 0 and len(found) < 2:
        match = _RESULT_AT.match(said, at)
        if match is not None:
            found.append(match)
        at = said.find(_BORDER, at + 1)
    return found


def _qmgr(at: str, queue_id: str, said: str) -> Said:
    if said == "removed":
        return ((queue_id, {"kind": "removed", "at": at}),)
    if not said.startswith("from=<"):
        return ()
    active = _ACTIVE.fullmatch(said)
    if active is not None:
        fact = {
            "kind": "queued",
            "at": at,
            "service": "qmgr",
            "reverse_path": active[1],
            "size": int(active[2]),
            "recipients": int(active[3]),
        }
        return ((queue_id, fact),)
    returned = _RETURNED.fullmatch(said)
    if returned is None:
        raise Unread("it is none of the queue manager's lines that are known")
    return ((queue_id, {"kind": "expired", "at": at, "reply": returned[1]}),)


def _smtpd(at: str, queue_id: str, said: str) -> Said:
    if not said.startswith("client="):
        return _action(at, queue_id, said, is_whole=_is_whole_smtpd)
    found = _CLIENT.fullmatch(said)
    if found is None or is_cut(f"{queue_id}: {said}"):
        raise Unread("its client or login cannot be told")
    fact = {"kind": "queued", "at": at, "service": "smtpd", "client": found[1]}
    if found[2] is not None:
        fact["login"] = found[2]
    # What follows sasl_sender may be part of it: the client has chosen it (AUTH= of MAIL).
    if found[4] is not None and found[4] != "NOQUEUE" and found[3] is None:
        fact["orig_queue_id"] = found[4]
    return ((queue_id, fact),)


def _is_whole_smtpd(action: str, rest: str) -> bool:
    # A refused recipient is not the message; DISCARD and HOLD take all of it, whoever says so.
    return action != "reject" or _WHOLE.match(rest) is not None


def _cleanup(at: str, queue_id: str, said: str) -> Said:
    if not said.startswith("message-id="):
        return _action(at, queue_id, said, is_whole=lambda action, rest: True)
    fact = {"kind": "queued", "at": at, "service": "cleanup"}
    value = said[11:]
    # Of one that was cut nobody knows how it went on.
    if not is_cut(f"{queue_id}: {said}"):
        fact["message_id"] = value
    return ((queue_id, fact),)


def is_cut(text: str) -> bool:
    """Whether Postfix may have cut this line, which begins after `program[pid]: `."""
    if len(text) < CUT // 4:  # no character has more octets than four
        return False
    return len(text.encode("utf-8", "surrogateescape")) >= CUT


def _action(at: str, queue_id: str, said: str, *, is_whole: Callable[[str, str], bool]) -> Said:
    found = _ACTION.match(said)
    if found is None:
        return ()
    action, rest = found[2], said[found.end() :]
    if not is_whole(action, rest):
        return ()
    return ((queue_id, {"kind": _ACTIONS[action], "at": at, "reply": said}),)


def _pickup(at: str, queue_id: str, said: str) -> Said:
    if not said.startswith("uid="):
        return ()
    found = _PICKUP.fullmatch(said)
    if found is None:
        raise Unread("its sender cannot be told")
    fact = {"kind": "queued", "at": at, "service": "pickup", "reverse_path": found[1]}
    former = found[2]
    if former is None:
        return ((queue_id, fact),)
    fact["orig_queue_id"] = former
    return ((queue_id, fact), (former, {"kind": "requeued", "at": at, "queue_id": queue_id}))


def _postsuper(at: str, queue_id: str, said: str) -> Said:
    kind = _POSTSUPER.get(said)
    return () if kind is None else ((queue_id, {"kind": kind, "at": at, "reply": "postsuper"}),)


def _bounce(at: str, queue_id: str, said: str) -> Said:
    found = _NOTICE.fullmatch(said)
    if found is None:
        return ()
    fact = {"kind": "notified", "at": at, "queue_id": found[2], "reply": found[1]}
    return ((queue_id, fact),)


_READERS: Final[Mapping[str, Callable[[str, str, str], Said]]] = {
    "qmgr": _qmgr,
    "nqmgr": _qmgr,
    "oqmgr": _qmgr,
    "smtpd": _smtpd,
    "qmqpd": _smtpd,
    "cleanup": _cleanup,
    "pickup": _pickup,
    "postsuper": _postsuper,
    "bounce": _bounce,
    "defer": _bounce,
    "trace": _bounce,
}
