"""Three independent judges of DKIM signatures over delivered bytes, with local keys and no DNS.

Promises: one `Judgement` for each DKIM-Signature field of a message, top to bottom, whatever the
judge made of it; a field that the judge did not even list is `ignored`.  The judges share no code
with Carbonseal's signer, save dkimpy's canonicalization: dkimpy (Python), libopendkim (C),
Mail::DKIM (Perl).  A judge's own complaint about one message never hides another message.

Ed25519: dkimpy with PyNaCl (`dkimpy[ed25519]`) and libopendkim judge it; Mail::DKIM of Debian 12
answers `unsupported`.

Raises: JudgeMissing with the package to install; JudgeFailed when the Perl process breaks.

Does not: change line ends.  The judges want CRLF, as it was on the wire.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import dkim

from support import libopendkim

DKIMPY, OPENDKIM, MAIL_DKIM = "dkimpy", "opendkim", "mail-dkim"
JUDGES = (DKIMPY, OPENDKIM, MAIL_DKIM)

_PERL_PROGRAM = Path(__file__).with_name("mail_dkim_verify.pl")
_PERL_TIMEOUT = 120.0  # seconds for a whole batch
_FIELD = re.compile(
    rb"^dkim-signature[ \t]*:((?:[^\n]*\n[ \t])*[^\n]*)", re.IGNORECASE | re.MULTILINE
)

_REVOKED = re.compile(rb"(?:^|;)\s*p\s*=\s*(?:;|$)")

Records = Mapping[str, bytes]


class Result(StrEnum):
    """What a judge says of one signature."""

    PASS = "pass"
    FAIL = "fail"  # the signature or the body hash does not match
    NO_KEY = "no-key"  # no record, or a revoked one
    INVALID = "invalid"  # signature or record is malformed, expired, of the future, too weak ...
    UNSUPPORTED = "unsupported"  # the judge does not know the algorithm
    IGNORED = "ignored"  # the judge did not list this signature


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judge's word on one signature."""

    judge: str  # one of JUDGES
    sdid: str  # tag d=, lower case
    selector: str  # tag s=
    algorithm: str  # tag a=, lower case
    result: Result
    detail: str  # the judge's own words, '' when there are none


class JudgeMissing(Exception):
    """A judge is not installed; the text says how to."""


class JudgeFailed(Exception):
    """A judge broke down, which says nothing about the signatures."""


@dataclass(frozen=True, slots=True)
class _Signature:
    """The tags that name one signature, as we read them."""

    sdid: str
    selector: str
    algorithm: str

    def judged(self, judge: str, result: Result, detail: str = "") -> Judgement:
        return Judgement(judge, self.sdid, self.selector, self.algorithm, result, detail)


def verify(judge: str, message: bytes, records: Records) -> list[Judgement]:
    """Judge one message; `records` maps 'selector._domainkey.example.com' to the TXT value."""
    return verify_many(judge, [message], records)[0]


def verify_many(judge: str, messages: Sequence[bytes], records: Records) -> list[list[Judgement]]:
    """Judge many messages, with one process where the judge is a program."""
    known = {name.lower().rstrip("."): value for name, value in records.items()}
    return _BENCH[judge](messages, known)


def verify_by_all(message: bytes, records: Records) -> dict[str, list[Judgement]]:
    """The word of every judge on one message."""
    return {judge: verify(judge, message, records) for judge in JUDGES}


def _signatures(message: bytes) -> list[_Signature]:
    section = message.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    return [_named(found[1]) for found in _FIELD.finditer(section)]


def _named(value: bytes) -> _Signature:
    tags: dict[str, str] = {}
    for tag in value.decode("utf-8", "surrogateescape").split(";"):
        name, _, content = tag.partition("=")
        tags.setdefault(name.strip(), "".join(content.split()))
    return _Signature(
        tags.get("d", "").lower().rstrip("."), tags.get("s", ""), tags.get("a", "").lower()
    )


# --- dkimpy ---------------------------------------------------------------------------------------


class _Complaints:
    """Takes dkimpy's log, where it gives the reason for a plain False."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def error(self, text: object, *_: object) -> None:
        self.texts.append(str(text))

    def debug(self, *_: object) -> None:
        pass

    info = warning = debug


def _by_dkimpy(messages: Sequence[bytes], records: Records) -> list[list[Judgement]]:
    return [
        [_dkimpy_one(message, index, signature, records) for index, signature in listed]
        for message in messages
        for listed in [enumerate(_signatures(message))]
    ]


def _dkimpy_one(message: bytes, index: int, signature: _Signature, records: Records) -> Judgement:
    complaints = _Complaints()
    missing: list[str] = []

    def txt(name: bytes, timeout: int = 5) -> bytes | None:
        asked = name.decode("utf-8", "surrogateescape").lower().rstrip(".")
        value = records.get(asked)
        if value is None or _REVOKED.search(value):
            missing.append(asked)
        return value

    try:
        good = bool(dkim.DKIM(message, logger=complaints).verify(idx=index, dnsfunc=txt))
    except Exception as error:  # besides its own exceptions it raises IndexError and others
        result = Result.NO_KEY if missing else _dkimpy_result(error)
        return signature.judged(DKIMPY, result, f"{type(error).__name__}: {error}")
    if good:
        return signature.judged(DKIMPY, Result.PASS)
    if missing:
        return signature.judged(DKIMPY, Result.NO_KEY, f"no key at {missing[0]}")
    # A False with a logged reason is about the key record, one without is the mathematics.
    result = Result.INVALID if complaints.texts else Result.FAIL
    return signature.judged(DKIMPY, result, "; ".join(complaints.texts))


def _dkimpy_result(error: Exception) -> Result:
    text = str(error)
    if isinstance(error, dkim.NaClNotFoundError | dkim.UnknownKeyTypeError):
        return Result.UNSUPPORTED
    if "unknown signature algorithm" in text:
        return Result.UNSUPPORTED
    if isinstance(error, dkim.ValidationError) and "body hash mismatch" in text:
        return Result.FAIL
    return Result.INVALID


# --- libopendkim ----------------------------------------------------------------------------------

# DKIM_SIGERROR_*: no key, key query failed, key revoked; invalid a=, unknown key type.
_OPENDKIM_NO_KEY = {22, 24, 42}
_OPENDKIM_UNSUPPORTED = {10, 41}
_OPENDKIM_BAD_SIGNATURE = 28


def _by_opendkim(messages: Sequence[bytes], records: Records) -> list[list[Judgement]]:
    def txt(name: str) -> bytes | None:
        return records.get(name.lower())

    try:
        findings = [libopendkim.judge(message, txt) for message in messages]
    except OSError as error:
        raise JudgeMissing(f"{error}; install it with: apt-get install libopendkim11") from error
    return [
        _aligned(OPENDKIM, message, [(f.sdid, f.selector, *_opendkim_word(f)) for f in found])
        for message, found in zip(messages, findings, strict=True)
    ]


def _opendkim_word(finding: libopendkim.Finding) -> tuple[Result, str]:
    if finding.passed:
        return Result.PASS, ""
    if finding.error in _OPENDKIM_NO_KEY:
        return Result.NO_KEY, finding.text
    if finding.error in _OPENDKIM_UNSUPPORTED:
        return Result.UNSUPPORTED, finding.text
    if finding.error == _OPENDKIM_BAD_SIGNATURE:
        return Result.FAIL, finding.text
    if finding.error:
        return Result.INVALID, finding.text
    return Result.FAIL, "" if finding.body_hash_matches else "body hash mismatch"


# --- Mail::DKIM -----------------------------------------------------------------------------------


def _by_mail_dkim(messages: Sequence[bytes], records: Records) -> list[list[Judgement]]:
    answers = _ask_perl(messages, records)
    judged = []
    for message, answer in zip(messages, answers, strict=True):
        if isinstance(answer, dict):
            died = answer["died"].strip()
            judged.append(
                [one.judged(MAIL_DKIM, Result.INVALID, died) for one in _signatures(message)]
            )
        else:
            found = [(one["sdid"], one["selector"], *_mail_dkim_word(one)) for one in answer]
            judged.append(_aligned(MAIL_DKIM, message, found))
    return judged


def _ask_perl(messages: Sequence[bytes], records: Records) -> list[Any]:
    question = {
        "records": {name: _encoded(value) for name, value in records.items()},
        "messages": [_encoded(message) for message in messages],
    }
    try:
        done = subprocess.run(
            ["perl", str(_PERL_PROGRAM)],
            input=json.dumps(question).encode(),
            capture_output=True,
            timeout=_PERL_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise JudgeMissing("perl; install it with: apt-get install libmail-dkim-perl") from error
    complaint = done.stderr.decode("utf-8", "replace")
    if "Can't locate Mail/DKIM" in complaint:
        raise JudgeMissing("Mail::DKIM; install it with: apt-get install libmail-dkim-perl")
    if done.returncode:
        raise JudgeFailed(f"perl ended with {done.returncode}: {complaint}")
    answers: list[Any] = json.loads(done.stdout)
    return answers


def _encoded(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _mail_dkim_word(answer: Mapping[str, str]) -> tuple[Result, str]:
    detail = answer["detail"]
    if "unsupported algorithm" in detail or "unsupported key type" in detail:
        return Result.UNSUPPORTED, detail
    if "not available" in detail or "revoked" in detail:
        return Result.NO_KEY, detail
    known = {"pass": Result.PASS, "fail": Result.FAIL}
    return known.get(answer["result"], Result.INVALID), "" if detail == "pass" else detail


# --- all ------------------------------------------------------------------------------------------


def _aligned(
    judge: str, message: bytes, found: Sequence[tuple[str, str, Result, str]]
) -> list[Judgement]:
    """Give each signature field the finding that is its own; judges leave out what they dislike."""
    return list(_align(judge, _signatures(message), list(found)))


def _align(
    judge: str, signatures: Sequence[_Signature], found: list[tuple[str, str, Result, str]]
) -> Iterator[Judgement]:
    complete = len(found) == len(signatures)
    for signature in signatures:
        key = (signature.sdid, signature.selector)
        if found and (complete or (found[0][0].lower().rstrip("."), found[0][1]) == key):
            _, _, result, detail = found.pop(0)
            yield signature.judged(judge, result, detail)
        else:
            yield signature.judged(judge, Result.IGNORED, "the judge did not list this signature")


_BENCH: dict[str, Callable[[Sequence[bytes], Records], list[list[Judgement]]]] = {
    DKIMPY: _by_dkimpy,
    OPENDKIM: _by_opendkim,
    MAIL_DKIM: _by_mail_dkim,
}
