"""Every signature verifies with dkimpy, OpenDKIM and Mail::DKIM, or none is made."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence

import pytest

from carbonseal.keys import body_hash, canonical_header, keyring, signer
from carbonseal.policies import signing_request
from carbonseal.policies.signing_request import SignatureRequest

NOW = int(time.time())  # the judges compare t= and x= with their own clock
FIELDS = ("from", "from", "to", "to", "subject", "subject", "cc", "date", "x-absent")
ALL_ACCEPT = {"dkimpy": [True], "opendkim": [True], "mail-dkim": [True]}
ALL_REFUSE = {"dkimpy": [False], "opendkim": [False], "mail-dkim": [False]}
FORMS = tuple(itertools.product(("relaxed", "simple"), repeat=2))


def sealed(
    fields: Sequence[tuple[bytes, bytes]],
    body: bytes,
    key: keyring.SigningKey,
    *,
    form: tuple[str, str] = ("relaxed", "relaxed"),
    names: tuple[str, ...] = FIELDS,
    auid: str = "",
    now: int = NOW,
    expires_after: int | None = None,
) -> bytes:
    """The message as it would be delivered, with its signature on top."""
    request = SignatureRequest(
        "example.com",
        key.facts.selector,
        key.facts.algorithm,
        auid=auid,
        header_canonicalization=form[0],  # type: ignore[arg-type]
        body_canonicalization=form[1],  # type: ignore[arg-type]
        fields=names,
        expires_after=expires_after,
    )
    digest = body_hash.BodyHash(form[1])
    digest.update(body)
    made = signer.sign(fields, digest.digest(), request, key, now=now)
    head = [(b"DKIM-Signature", made.field_value.encode()), *fields]
    lines = [
        name + b":" + value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n"
        for name, value in head
    ]
    return b"".join(lines) + b"\r\n" + body


def message(subject: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"Received", b" from a\n\tby b; Sat, 21 Nov 2026 12:00:00 +0000"),
        (b"From", b" Alice <alice@example.com>"),
        (b"To", b" bob@example.org"),
        (b"Subject", subject),
        (b"Date", b" Sat, 21 Nov 2026 12:00:00 +0000"),
    ]


SUBJECTS = {
    "plain": b" hello",
    "no-space-after-colon": b"hello",
    "two-spaces-after-colon": b"  hello",
    "tab-after-colon": b"\thello",
    "trailing-white-space": b" hello \t ",
    "folded": b" hello\n world",
    "folded-with-tab": b" hello\n\tworld",
    "crlf-folded": b" hello\r\n world",
    "first-line-empty": b"\n hello",
    "line-of-white-space": b" hello\n \n world",
    "last-line-white-space": b" hello\n ",
    "latin-1": b" gr\xfc\xdfe \x85\xa0 x\xa0",
    "raw-utf-8": " Grüße \u2603\u00a0".encode(),
    "empty": b"",
    "one-space": b" ",
    "long-line": b" " + b"x" * 990,
    "60-kib": b"".join(b" line %d\n" % number for number in range(5500)) + b" end",
    "escape-character": b" a\x1bb \x1c\x1f",
    "looks-like-tags": b" b=abc; bh=x; d=example.net;",
}
BODIES = {
    "empty": b"",
    "only-empty-lines": b"\r\n" * 9,
    "white-space-lines": b"a\r\n \r\n\t\r\n",
    "run-of-spaces": b" " * 3000 + b"x" + b" " * 3000 + b"\r\n",
    "8-bit": bytes(range(160, 256)) + b" \r\n",
    "vertical-tab-and-form-feed": b"a \x0b \x0c \r\n\x0c\r\n",
    "nul": b"a\x00 b\r\n",
    "dots": b".\r\n..\r\n",
}


@pytest.mark.parametrize("algorithm", signing_request.ALGORITHMS)
@pytest.mark.parametrize("form", FORMS, ids="/".join)
def test_all_judges_accept_what_we_sign(
    form: tuple[str, str],
    algorithm: str,
    signing_keys: Mapping[str, keyring.SigningKey],
    judges,  # type: ignore[no-untyped-def]
) -> None:
    """Every subject and every body, in each canonicalization, with each algorithm."""
    key = signing_keys[algorithm]
    cases = {name: (message(value), b"Hello\r\n") for name, value in SUBJECTS.items()}
    cases |= {f"body-{name}": (message(b" hi"), body) for name, body in BODIES.items()}
    cases["two-from"] = ([(b"From", b" x@example.net"), *message(b" hi")], b"Hello\r\n")
    cases["no-date"] = (message(b" hi")[:-1], b"Hello\r\n")
    cases["upper-case-names"] = ([(n.upper(), v) for n, v in message(b" hi")], b"Hello\r\n")
    messages = [sealed(head, body, key, form=form) for head, body in cases.values()]
    for judge, verdicts in judges.verdicts(messages).items():
        if judge == "mail-dkim" and algorithm == signing_request.ED25519:
            continue  # Debian 12's Mail::DKIM does not know the algorithm
        failed = [name for name, good in zip(cases, verdicts, strict=True) if not good]
        assert not failed, judge


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace(b"Subject: hi", b"Subject: ha"), id="subject"),
        pytest.param(lambda text: text.replace(b"Hello", b"hello"), id="body"),
        pytest.param(lambda text: b"From: eve@example.com\r\n" + text, id="second-from"),
        pytest.param(lambda text: b"X-Absent: now\r\n" + text, id="oversigned-absent-field"),
        pytest.param(lambda text: b"Subject: two\r\n" + text, id="oversigned-second-subject"),
    ],
)
def test_all_judges_refuse_what_was_changed(change, signing_keys, judges) -> None:  # type: ignore[no-untyped-def]
    """The judges do judge, and oversigning does seal against additions."""
    whole = change(sealed(message(b" hi"), b"Hello\r\n", signing_keys[signing_request.RSA]))
    assert judges.verdicts([whole]) == ALL_REFUSE


@pytest.mark.parametrize(
    "auid",
    [
        pytest.param("alice@example.com", id="at-the-sdid"),
        pytest.param("@mail.example.com", id="at-a-subdomain"),
        pytest.param("o=b;x y@example.com", id="octets-that-need-encoding"),
        pytest.param("grüße@example.com", id="utf-8-local-part"),
        pytest.param("a" * 100 + f"@{'b' * 60}.{'c' * 60}.example.com", id="longer-than-a-line"),
    ],
)
def test_auid_is_written_so_that_judges_read_it(auid, signing_keys, judges) -> None:  # type: ignore[no-untyped-def]
    """i= is one token, dkim-quoted-printable, however long."""
    key = signing_keys[signing_request.RSA]
    whole = sealed(message(b" hi"), b"Hello\r\n", key, auid=auid)
    assert judges.verdicts([whole]) == ALL_ACCEPT


def test_expiry_and_many_names_are_accepted(signing_keys, judges) -> None:  # type: ignore[no-untyped-def]
    """x= in the future and an h= list of 60 names over many lines."""
    names = (*FIELDS, *(f"x-{number}-{'n' * (number % 40)}" for number in range(50)))
    key = signing_keys[signing_request.RSA]
    whole = sealed(message(b" hi"), b"Hi\r\n", key, names=names, expires_after=86400)
    assert judges.verdicts([whole]) == ALL_ACCEPT


@pytest.mark.parametrize(
    ("subject", "split"),
    [
        pytest.param(b" a\x0bb", {"opendkim"}, id="vertical-tab-inside"),
        pytest.param(b" a\x0cb", {"opendkim"}, id="form-feed-inside"),
        pytest.param(b" a\x0c", {"mail-dkim"}, id="form-feed-at-the-end"),
        pytest.param(b" a\x0b", {"mail-dkim"}, id="vertical-tab-at-the-end"),
        pytest.param(b" a\rb", {"opendkim"}, id="bare-cr-inside"),
        pytest.param(b" a\r", {"mail-dkim"}, id="bare-cr-at-the-end"),
        pytest.param(b" a\x00b", {"opendkim"}, id="nul"),
    ],
)
def test_what_judges_read_differently_is_not_signed(  # type: ignore[no-untyped-def]
    subject: bytes, split: set[str], signing_keys, judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`split` names those who would refuse the signature; the refusal rests on that."""
    key = signing_keys[signing_request.RSA]
    with pytest.raises(signer.SignatureFailed) as refusal:
        sealed(message(subject), b"Hello\r\n", key)
    assert (refusal.value.code, refusal.value.about) == ("disputed-octets", "Subject")
    monkeypatch.setattr(canonical_header, "plainly", canonical_header.by_dkimpy)
    verdicts = judges.verdicts([sealed(message(subject), b"Hello\r\n", key)])
    assert {judge for judge, (good,) in verdicts.items() if not good} == split


@pytest.mark.parametrize("octet", [b"\x0b", b"\x0c"], ids=["vertical-tab", "form-feed"])
def test_vertical_tab_and_form_feed_are_signed_under_simple(octet, signing_keys, judges) -> None:  # type: ignore[no-untyped-def]
    """Under simple nobody looks at white space, so there is no dispute."""
    key = signing_keys[signing_request.RSA]
    whole = sealed(message(b" a " + octet), b"Hello\r\n", key, form=("simple", "relaxed"))
    assert judges.verdicts([whole]) == ALL_ACCEPT
