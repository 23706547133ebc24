"""A signature request that exists can be signed; what RFC 6376 forbids cannot be made."""

from __future__ import annotations

from typing import Any

import pytest

from carbonseal.policies import errors
from carbonseal.policies.signing_request import ED25519, RSA, KeyFacts, SignatureRequest

LONG_NAME = {"selector": ("a" * 60 + ".") * 3 + "b", "sdid": "b" * 60 + ".com"}


def request(**changes: Any) -> SignatureRequest:
    return SignatureRequest(
        **({"sdid": "example.com", "selector": "s1", "algorithm": RSA} | changes)
    )


def test_defaults_are_the_usual_ones() -> None:
    """AUID '@' + SDID, relaxed/relaxed, From oversigned, no expiry."""
    one = request()
    assert (one.auid, one.canonicalization) == ("@example.com", "relaxed/relaxed")
    assert (one.fields, one.expires_after) == (("from", "from"), None)
    assert one.key == KeyFacts("example.com", "s1", RSA)
    assert hash(one) == hash(request())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"selector": "2026.mail"}, id="selector-with-a-dot"),
        pytest.param({"sdid": "xn--mller-kva.example"}, id="a-label"),
        pytest.param({"auid": "alice@example.com"}, id="auid-at-the-sdid"),
        pytest.param({"auid": "alice@mail.example.com"}, id="auid-at-a-subdomain"),
        pytest.param({"auid": "grüße@example.com"}, id="auid-utf-8"),
        pytest.param({"algorithm": ED25519}, id="ed25519"),
        pytest.param({"fields": ("to", "from", "x_y")}, id="fields"),
        pytest.param({"expires_after": 1}, id="expires"),
    ],
)
def test_what_the_rfc_allows_is_taken(changes: dict[str, Any]) -> None:
    """And kept as it was given."""
    one = request(**changes)
    assert all(getattr(one, name) == value for name, value in changes.items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"sdid": "Example.com"}, "lower case", id="sdid-upper-case"),
        pytest.param({"sdid": "example.com."}, "signing domain", id="sdid-trailing-dot"),
        pytest.param({"sdid": "müller.example"}, "A-labels", id="sdid-u-label"),
        pytest.param({"sdid": "com"}, "two labels", id="sdid-one-label"),
        pytest.param({"sdid": "example.com; s=x"}, "signing domain", id="sdid-injection"),
        pytest.param({"sdid": "example.com\n"}, "signing domain", id="sdid-line-end"),
        pytest.param({"sdid": "a" * 64 + ".com"}, "signing domain", id="sdid-long-label"),
        pytest.param({"selector": ""}, "selector", id="selector-empty"),
        pytest.param({"selector": "s_1"}, "selector", id="selector-underscore"),
        pytest.param({"selector": "s1."}, "selector", id="selector-trailing-dot"),
        pytest.param(
            LONG_NAME,
            "253",
            id="dns-name",
        ),
        pytest.param({"algorithm": "rsa-sha1"}, "rsa-sha256", id="rsa-sha1"),
        pytest.param({"auid": "a@evilexample.com"}, "under the SDID", id="auid-bare-suffix"),
        pytest.param({"auid": "a@example.net"}, "under the SDID", id="auid-elsewhere"),
        pytest.param({"auid": "alice"}, "under the SDID", id="auid-without-domain"),
        pytest.param({"auid": "a@.example.com"}, "under the SDID", id="auid-empty-label"),
        pytest.param({"auid": "a\n@example.com"}, "control", id="auid-line-end"),
        pytest.param({"auid": "a" * 250 + "@example.com"}, "too long", id="auid-too-long"),
        pytest.param({"fields": ()}, "From field", id="no-fields"),
        pytest.param({"fields": ("to",)}, "From field", id="from-missing"),
        pytest.param({"fields": ("From",)}, "header field name", id="fields-upper-case"),
        pytest.param({"fields": ("from", "a:b")}, "header field name", id="field-with-colon"),
        pytest.param({"fields": ("from", "b=")}, "header field name", id="field-like-a-tag"),
        pytest.param({"fields": ("from", "dkim-signature")}, "cannot sign itself", id="itself"),
        pytest.param({"header_canonicalization": "nowsp"}, "relaxed or simple", id="header"),
        pytest.param({"body_canonicalization": "RELAXED"}, "relaxed or simple", id="body"),
        pytest.param({"expires_after": 0}, "above zero", id="expires-at-once"),
    ],
)
def test_what_the_rfc_forbids_is_refused_with_a_sentence(
    changes: dict[str, Any], says: str
) -> None:
    """After start-up no signature can be misconfigured."""
    with pytest.raises(errors.DataError, match=says):
        request(**changes)
