"""Two signers on one message: what differs, and what explains it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import signature_comparison, signature_facts
from carbonseal.policies.signature_comparison import Message
from carbonseal.policies.signature_facts import SignatureFacts

OLD = SignatureFacts(
    sdid="example.com",
    selector="old",
    algorithm="rsa-sha256",
    canonicalization="relaxed/relaxed",
    fields=("from", "to", "subject"),
    auid="@example.com",
)
FIELDS = Counter(("from", "to", "subject", "received", "x-more"))


def differences(
    old: list[SignatureFacts],
    new: list[SignatureFacts],
    *reasons: str,
    stage: str | None = "active",
    ascii_author: bool = True,
) -> list[tuple[str, bool]]:
    """Codes, and whether they are explained."""
    message = Message(FIELDS, reasons, lambda _: stage, ascii_author)
    return [(one.code, one.is_explained) for one in signature_comparison.compare(old, new, message)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, [], id="the-same"),
        pytest.param({"fields": ("subject", "from", "to")}, [], id="another-order"),
        pytest.param({"sdid": "example.org", "auid": "@example.org"},
                     [("domain", False), ("identity", False)], id="another-domain"),
        pytest.param({"selector": "x"}, [("selector", False)], id="another-selector"),
        pytest.param({"algorithm": "ed25519-sha256"},
                     [("algorithm", False)], id="another-algorithm"),
        pytest.param({"canonicalization": "relaxed/simple"},
                     [("canonicalization", True)], id="another-form"),
        pytest.param({"expires_at": 5}, [("expiry", True)], id="it-expires"),
        pytest.param({"fields": ("from", "to", "subject", "x-more")},
                     [("fields-gained", True)], id="more-is-signed"),
        pytest.param({"fields": ("from", "from", "to", "subject")},
                     [("fields-gained", True)], id="oversigned"),
        pytest.param({"fields": ("from", "to")}, [("fields-lost", False)], id="less-is-signed"),
    ],
)  # fmt: skip
def test_two_signatures(change: dict[str, object], expected: list[tuple[str, bool]]) -> None:
    """What signs, and what is covered, must be the same; how is as configured."""
    assert differences([OLD], [replace(OLD, **change)]) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"auid": "a@example.com"}, [("identity", True)], id="an-identity"),
        pytest.param({"has_length": True}, [("length", True)], id="a-length"),
        pytest.param({"algorithm": "rsa-sha1"}, [("algorithm", True)], id="sha-1"),
        pytest.param({"fields": ("from", "to", "subject", "received")},
                     [("fields-lost", True)], id="a-trace-field"),
        pytest.param({"fields": ("from", "from", "to", "subject")},
                     [("fields-lost", False)], id="the-author-was-oversigned"),
        pytest.param({"fields": ("from", "to", "subject", "date")},
                     [("fields-lost", True)], id="the-absent-date-was-oversigned"),
        pytest.param({"fields": ("from", "to", "subject", "x-more")},
                     [("fields-lost", False)], id="a-field-of-their-own"),
    ],
)  # fmt: skip
def test_what_only_the_old_signer_does(
    change: dict[str, object], expected: list[tuple[str, bool]]
) -> None:
    """Explained by a promise of ours, or not at all."""
    assert differences([replace(OLD, **change)], [OLD]) == expected


@pytest.mark.parametrize(
    ("reasons", "is_explained"),
    [
        pytest.param(("line-too-long(1200)",), True, id="it-would-break"),
        pytest.param(("several-authors(a, b)",), True, id="no-single-author"),
        pytest.param(("peer-sealed(192.0.2.0/24)",), True, id="a-peer"),
        pytest.param(("author-not-allowed(x as y)",), True, id="a-login-that-may-not"),
        pytest.param(("origin-none(127.0.0.1)", "no-origin-proof(127.0.0.1)"), True, id="loopback"),
        pytest.param(("no-origin-proof(sendmail)",), True, id="sendmail"),
        pytest.param(("no-origin-proof(198.51.100.7)",), False, id="a-client-we-do-not-know"),
        pytest.param(("author-exempt(a@example.com)",), False, id="a-rule"),
        pytest.param(("no-active-key(example.com)",), False, id="no-key"),
        pytest.param((), False, id="nothing-is-said"),
    ],
)
def test_mail_that_only_the_old_signer_signs(reasons: tuple[str, ...], is_explained: bool) -> None:
    """Meant if a safe default says so; a gap of the migration is never explained away."""
    assert differences([OLD], [], *reasons) == [("signed-only-there", is_explained)]


def test_mail_that_only_we_sign() -> None:
    """Unexplained, but for an author whose domain OpenDKIM cannot read."""
    assert differences([], [OLD]) == [("signed-only-here", False)]
    foreign = replace(OLD, sdid="xn--bcher-kva.example", auid="@xn--bcher-kva.example")
    assert differences([], [foreign], ascii_author=False) == [("signed-only-here", True)]


def test_a_key_that_is_here_but_signs_no_more_explains_another_selector() -> None:
    """The rotation went on while both ran."""
    new = replace(OLD, selector="new")
    assert differences([OLD], [new], stage="retiring") == [("selector", True)]
    assert differences([OLD, new], [new], stage="verified") == [("signature-missing", True)]
    assert differences([OLD, new], [new], stage=None) == [("signature-missing", False)]


def test_signatures_are_paired_by_what_they_have_in_common() -> None:
    """Whatever their order."""
    second = replace(OLD, selector="e", algorithm="ed25519-sha256")
    assert differences([OLD, second], [second, OLD]) == []
    assert differences([OLD], [second, OLD]) == [("signature-added", True)]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("v=1; a=rsa-sha256", id="half"),
        pytest.param("a=1; a=2; d=x; s=y; h=z; b=1; bh=2", id="a-tag-twice"),
        pytest.param("nonsense", id="no-tags"),
        pytest.param("d=x;" * 30_000, id="huge"),
    ],
)
def test_what_is_no_signature_is_none(value: str) -> None:
    """And stops nothing."""
    assert signature_facts.parse(value) is None


def test_a_folded_field_is_read() -> None:
    """White space is where RFC 6376 allows it."""
    read = signature_facts.parse(
        " v=1; a=RSA-SHA256; c=relaxed;\n\td=Example.COM; s=Old;\n h=From : To:\n\tSubject; t=12;"
        " l=5; bh=a b; b=x\n y;"
    )
    assert read == SignatureFacts(
        "example.com", "old", "rsa-sha256", "relaxed/simple", ("from", "to", "subject"),
        "@example.com", signed_at=12, has_length=True,
    )  # fmt: skip


@given(st.text(max_size=200))
def test_any_text_is_a_signature_or_none(value: str) -> None:
    """Nothing is raised."""
    signature_facts.parse(value)
    signature_facts.parse("d=a;s=b;a=c;h=d;b=e;bh=f;" + value)
