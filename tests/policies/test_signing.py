"""The signing plan: nobody signs who may not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from carbonseal.policies import header_fields, reason, signing
from carbonseal.policies.disposition import FailureClass
from carbonseal.policies.errors import DataError
from carbonseal.policies.origin import Origin, OriginKind
from carbonseal.policies.signing import AuthorPattern, SigningPlan, SigningPolicy, SigningRule
from carbonseal.policies.signing_request import KeyFacts

RSA = KeyFacts("example.com", "r1", "rsa-sha256")
ED = KeyFacts("example.com", "e1", "ed25519-sha256")
KEYS = {"example.com": (RSA, ED), "ours.example": (KeyFacts("ours.example", "s", "rsa-sha256"),)}
NETWORK = Origin(OriginKind.NETWORK, "192.0.2.0/24")
LOGIN = Origin(OriginKind.LOGIN, "alice")
POLICY = SigningPolicy()
FIELDS = ("Received", "From", "To", "Subject", "Date", "Message-ID")


def plan(
    *authors: bytes,
    origin: Origin = NETWORK,
    login: str = "",
    policy: SigningPolicy | None = None,
    names: Sequence[str] = FIELDS,
    problem: str | None = None,
    refusal: str | None = None,
) -> SigningPlan:
    return signing.plan(
        origin=origin,
        login=login,
        authors=header_fields.authors(authors),
        field_names=[name.lower() for name in names],
        policy=policy or SigningPolicy(),
        active_keys=lambda sdid: KEYS.get(sdid, ()),
        key_problem=lambda sdid: problem,
        key_refusal=lambda sdid: refusal,
    )


def codes(outcome: SigningPlan) -> list[str]:
    return [one.code for one in outcome.reasons]


def test_an_author_of_ours_is_signed_with_every_active_key() -> None:
    """RSA and Ed25519 stand side by side where both are active."""
    outcome = plan(b" Alice <alice@example.com>")
    assert [one.selector for one in outcome.requests] == ["r1", "e1"]
    assert outcome.failure is None


@pytest.mark.parametrize(
    ("authors", "origin", "code", "failure"),
    [
        pytest.param(
            [b" a@example.com"],
            Origin(OriginKind.NONE, "198.51.100.7"),
            "no-origin-proof",
            None,
            id="stranger-with-our-author",
        ),
        pytest.param(
            [b" a@example.com"],
            Origin(OriginKind.PEER, "203.0.113.25"),
            "peer-sealed",
            None,
            id="peer-has-signed",
        ),
        pytest.param([], NETWORK, "no-author", FailureClass.UNUSABLE_AUTHOR, id="no-from"),
        pytest.param(
            [b" a@example.com", b" b@example.com"],
            NETWORK,
            "several-author-fields",
            FailureClass.UNUSABLE_AUTHOR,
            id="two-from-fields",
        ),
        pytest.param(
            [b" a@example.com, b@example.com"],
            NETWORK,
            "several-authors",
            FailureClass.UNUSABLE_AUTHOR,
            id="two-mailboxes",
        ),
        pytest.param(
            [b" Team: a@example.com, b@example.com;"],
            NETWORK,
            "group-author",
            FailureClass.UNUSABLE_AUTHOR,
            id="group",
        ),
        pytest.param(
            [b" MAILER-DAEMON"],
            NETWORK,
            "unparsable-author",
            FailureClass.UNUSABLE_AUTHOR,
            id="author-without-domain",
        ),
        pytest.param(
            [b' "a@example.com" <b@theirs.example>'],
            NETWORK,
            "author-not-ours",
            None,
            id="our-address-in-the-display-name-only",
        ),
    ],
)
def test_refusals_have_their_reason_and_class(
    authors: list[bytes], origin: Origin, code: str, failure: FailureClass | None
) -> None:
    """Each refusal is named; those an operator may answer differently carry a failure class."""
    outcome = plan(*authors, origin=origin)
    assert outcome.requests == ()
    assert codes(outcome) == [code]
    assert outcome.failure == failure


def test_a_rule_names_another_signing_domain() -> None:
    """First match on the author; the author's own domain only where no rule matches."""
    policy = SigningPolicy(
        rules=(
            SigningRule(AuthorPattern.parse("never@example.com"), None),
            SigningRule(AuthorPattern.parse("*@.example.com"), "example.com"),
            SigningRule(AuthorPattern.parse("*@customer.example"), "ours.example"),
        )
    )
    assert plan(b" x@a.b.example.com", policy=policy).requests[0].sdid == "example.com"
    assert plan(b" x@customer.example", policy=policy).requests[0].sdid == "ours.example"
    assert codes(plan(b" Never@Example.com", policy=policy)) == ["author-exempt"]
    assert plan(b" x@example.com", policy=policy).requests[0].sdid == "example.com"


def test_a_rule_without_a_key_is_a_failure_and_a_plain_foreign_author_is_not() -> None:
    """An operator who wrote the rule wants to know; a relayed stranger is no accident."""
    policy = SigningPolicy(rules=(SigningRule(AuthorPattern.parse("*@x.example"), "x.example"),))
    outcome = plan(b" a@x.example", policy=policy)
    assert codes(outcome) == ["no-active-key"]
    assert outcome.failure is FailureClass.NO_USABLE_KEY
    assert plan(b" a@y.example").failure is None


def test_a_key_that_cannot_be_read_is_told_apart_from_no_key() -> None:
    """Mail of that domain waits by default; other domains are not touched."""
    outcome = plan(b" a@broken.example", problem="broken.example/s.pem: mode 0644")
    assert codes(outcome) == ["key-unusable"]
    assert outcome.failure is FailureClass.UNREADABLE_KEY


def test_a_key_whose_record_is_wrong_is_told_apart_from_one_that_cannot_be_read() -> None:
    """Its signatures would fail everywhere; an unreadable key beside it is the graver accident."""
    gone = "s1._domainkey.gone.example: no name server shows it"
    outcome = plan(b" a@gone.example", refusal=gone)
    assert [str(reason) for reason in outcome.reasons] == [f"key-refused({gone})"]
    assert outcome.failure is FailureClass.KEY_NOT_PUBLISHED
    both = plan(b" a@gone.example", refusal=gone, problem="gone.example/s2.pem: mode 0644")
    assert both.failure is FailureClass.UNREADABLE_KEY


@pytest.mark.parametrize(
    ("login", "author", "is_allowed"),
    [
        pytest.param("alice", b" alice@example.com", True, id="own-address"),
        pytest.param("alice", b" bob@example.com", False, id="a-colleagues-address"),
        pytest.param("office", b" sales@example.com", True, id="pattern"),
        pytest.param("unlisted", b" noreply@example.com", True, id="unlisted-with-the-star-entry"),
        pytest.param("unlisted", b" alice@example.com", False, id="unlisted-as-somebody-else"),
    ],
)
def test_a_login_signs_for_its_own_authors_only(
    login: str, author: bytes, is_allowed: bool
) -> None:
    """Cross-user signing on a shared relay is refused and recorded."""
    policy = SigningPolicy(
        logins={
            "alice": (AuthorPattern.parse("alice@example.com"),),
            "office": (AuthorPattern.parse("*@example.com"),),
            "*": (AuthorPattern.parse("noreply@example.com"),),
        }
    )
    outcome = plan(author, origin=LOGIN, login=login, policy=policy)
    assert bool(outcome.requests) == is_allowed
    assert is_allowed or codes(outcome) == ["author-not-allowed"]


def test_fields_are_oversigned_and_late_additions_only_where_present() -> None:
    """Absent Date and Message-ID are added after us by some hops; everything else is sealed."""
    listed = signing.signed_fields(["From", "TO", "to", "Subject", "X-Other"], SigningPolicy())
    assert listed.count("from") == 2
    assert listed.count("to") == 3
    assert listed.count("cc") == 1
    assert "date" not in listed
    assert "message-id" not in listed
    assert "x-other" not in listed
    with_date = signing.signed_fields(["From", "Date"], SigningPolicy())
    assert with_date.count("date") == 2


def test_the_number_of_signatures_can_be_limited() -> None:
    """Some next hops refuse a second DKIM-Signature."""
    outcome = plan(b" a@example.com", policy=replace(SigningPolicy(), max_signatures=1))
    assert [one.selector for one in outcome.requests] == ["r1"]


def test_hundreds_of_other_fields_are_no_reason_not_to_sign() -> None:
    """What is not in h= does not count, and does not fill the memory of h= lists."""
    before = signing._requests.cache_info().currsize
    for number in range(3):
        names = (*FIELDS, *(f"X-{number}-{count}" for count in range(500)))
        (request, _) = plan(b" a@example.com", names=names, policy=POLICY).requests
        assert request.fields == plan(b" a@example.com", policy=POLICY).requests[0].fields
    assert signing._requests.cache_info().currsize == before + 1


def test_hundreds_of_signed_fields_are_too_many() -> None:
    """An h= list that no verifier wants to read is not made."""
    outcome = plan(b" a@example.com", names=["From", *["To"] * 1000])
    assert codes(outcome) == ["too-many-fields"]


@pytest.mark.parametrize("text", ["", "example.com", "@example.com", "a@", "*@-bad-.example"])
def test_an_impossible_author_pattern_is_refused(text: str) -> None:
    """With the forms that are allowed."""
    with pytest.raises(DataError):
        AuthorPattern.parse(text)


def test_every_reason_has_a_sentence() -> None:
    """No decision is unexplained: each code that the policies use is in the catalogue."""
    root = Path(reason.__file__).resolve().parents[1]
    sources = [*(root / "policies").glob("*.py"), root / "milter" / "seal.py"]
    used = set()
    for source in sources:
        used |= set(re.findall(r'Reason\(\s*"([a-z-]+)"', source.read_text()))
    used |= set(signing._UNUSABLE.values())
    used |= {f"origin-{kind}" for kind in OriginKind}
    used |= {"null-reverse-path-inside", "null-reverse-path-outside"}
    assert used == set(reason.SENTENCES)
    for code in reason.SENTENCES:
        assert "{" not in reason.Reason(code, "x").sentence
