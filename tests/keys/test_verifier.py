"""The verifier without DNS: it agrees with the signer and the judges, and sees every change."""

from __future__ import annotations

import pytest

from carbonseal.keys import keyring, signer, store, verifier
from carbonseal.keys.body_hash import BodyHash
from carbonseal.keys.canonical_header import Field
from carbonseal.keys.verifier import Outcome
from carbonseal.milter import cli
from carbonseal.policies.signature_facts import parse
from carbonseal.policies.signing_request import SignatureRequest

FIELDS: list[Field] = [
    (b"From", b" alice@example.com"),
    (b"To", b" bob@example.org,\n  eve@example.org"),
    (b"Subject", b"  two   spaces "),
]
BODY = b"text \r\n\r\n"


@pytest.fixture(scope="module", params=["rsa", "ed25519"])
def ring(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[keyring.Keyring, bytes]:
    """A keyring with one key, and that key's public half."""
    folder = tmp_path_factory.mktemp("ring")
    (folder / "c.yaml").write_text(
        f"ours: {{domains: [example.com]}}\nsigning: {{keys: {folder}/keys}}\n"
    )
    with pytest.raises(SystemExit):
        cli.main(
            ["--config", str(folder / "c.yaml"), "keys", "generate", "example.com", "--algorithm",
             request.param, "--activate", "--assume-published"]
        )  # fmt: skip
    (record,) = store.Store(folder / "keys").lineage("example.com").records
    return keyring.load(folder / "keys"), record.public_key


def digest(form: str, body: bytes = BODY) -> bytes:
    hashed = BodyHash(form)
    hashed.update(body)
    return hashed.digest()


@pytest.mark.parametrize("header", ["relaxed", "simple"])
@pytest.mark.parametrize("body", ["relaxed", "simple"])
def test_a_signature_of_ours_passes_and_any_change_is_seen(
    ring: tuple[keyring.Keyring, bytes], header: str, body: str
) -> None:
    """In the header, in the body, in the field itself, with another key, without any."""
    keys, public = ring
    (key,) = keys.signing_keys("example.com")
    request = SignatureRequest(
        "example.com",
        key.facts.selector,
        key.facts.algorithm,
        header_canonicalization=header,  # type: ignore[arg-type]
        body_canonicalization=body,  # type: ignore[arg-type]
        fields=("from", "from", "to", "subject"),
    )
    made = signer.sign(FIELDS, digest(body), request, key, now=1_700_000_000)
    value = made.field_value.encode()

    def outcome(
        fields: list[Field] = FIELDS,
        field: bytes = value,
        digests: dict[str, bytes] | None = None,
        key: bytes | None = public,
    ) -> Outcome:
        known = {body: digest(body)} if digests is None else digests
        return verifier.verify(fields, field, known, key)

    assert outcome() is Outcome.PASS
    assert outcome(digests={}) is Outcome.HEADER_PASSES
    assert outcome(digests={body: digest(body, b"other\r\n")}) is Outcome.BODY_DIFFERS
    assert outcome([*FIELDS[:2], (b"Subject", b" other")]) is Outcome.FAIL
    assert outcome([(b"From", b" eve@example.com"), *FIELDS]) is Outcome.FAIL
    assert outcome(field=value.replace(b"t=17", b"t=18")) is Outcome.FAIL
    assert outcome(key=None) is Outcome.NO_KEY
    assert outcome(field=b" v=1; nonsense") is Outcome.UNREADABLE
    assert outcome(key=b"no key") is Outcome.FAIL
    assert parse(made.field_value) is not None
