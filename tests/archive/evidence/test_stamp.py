"""Time stamps by an authority that is not ours: OpenSSL's, over HTTP."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update
from support import authority as authorities
from support.archive import Archive
from support.evidence import alone, salted, tampering, verified

from carbonseal.milter.archive import schema, writer
from carbonseal.milter.archive.evidence import chain, settings, stamp
from carbonseal.milter.archive.evidence.verify import Report


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[authorities.Authority]:
    made = authorities.Authority(tmp_path_factory.mktemp("tsa") / "here")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _honest(authority: authorities.Authority) -> Iterator[None]:
    yield
    authority.answer = None


def _load(archive: Archive, url: str, certificate: Path | None, *, every: int = 0) -> int:
    evidence = settings.Settings(
        settings.beside(archive.spool_directory).directory,
        settings.Authority(url, every, certificate),
    )
    return writer.run_once(
        archive.spool_directory, archive.database_url, report=archive.report, evidence=evidence
    )


def _events(archive: Archive, name: str) -> list[dict[str, object]]:
    return [facts for event, facts in archive.events if event == name]


def test_the_head_is_stamped_and_openssl_agrees(
    archive: Archive, authority: authorities.Authority, tmp_path: Path
) -> None:
    """The imprint is the digest that people note as the head."""
    archive.put(salted(0))
    _load(archive, authority.url, authority.certificate)
    [(_, sealed)] = list(chain.entries(archive.spool_directory / "evidence"))
    assert isinstance(sealed, chain.Sealed)
    assert _events(archive, "chain-stamped") == [{"seal": f"1:{sealed.digest.hex()}"}]
    with archive.engine.connect() as connection:
        token = connection.execute(select(schema.stamp.c.token)).scalar_one()
    path = tmp_path / "reply"
    path.write_bytes(token)
    said = subprocess.run(
        ["openssl", "ts", "-verify", "-digest", sealed.digest.hex(), "-in", str(path),
         "-CAfile", str(authority.certificate)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Verification: OK" in said.stdout, said.stderr
    report = Report()
    asked = replace(alone(archive), certificate=authority.certificate)
    assert verified(archive, asked, report) == []
    assert report.stamps == 1
    assert stamp.stamped_at(token) is not None


def test_it_is_stamped_no_more_often_than_configured(
    archive: Archive, authority: authorities.Authority
) -> None:
    """Two segments in one pass are one stamp, of the first of them."""
    archive.put(salted(0))
    archive.put(salted(1))
    before = authority.asked
    _load(archive, authority.url, authority.certificate, every=3600)
    assert authority.asked == before + 1


def test_sealing_goes_on_without_the_authority(archive: Archive) -> None:
    """It is said once for each time it was asked, and nothing waits for it."""
    archive.put(salted(0))
    assert _load(archive, "http://127.0.0.1:9/tsr", None) == 1
    assert len(_events(archive, "stamp-failed")) == 1
    assert archive.rows("seal") == 1
    assert archive.rows("stamp") == 0
    assert verified(archive) == []


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(b"<html>busy</html>", "it is no time stamp", id="no-time-stamp"),
        pytest.param(b"\x30\x05\x30\x03\x02\x01\x02", "refused|no time stamp", id="refusal"),
    ],
)
def test_a_bad_answer_is_not_kept(
    archive: Archive, authority: authorities.Authority, answer: bytes, problem: str
) -> None:
    """What is kept is a stamp of that entry, or nothing."""
    authority.answer = answer
    archive.put(salted(0))
    _load(archive, authority.url, authority.certificate)
    [facts] = _events(archive, "stamp-failed")
    assert any(one in str(facts["problem"]) for one in problem.split("|"))
    assert archive.rows("stamp") == 0


def test_a_stamp_of_something_else_is_not_kept(
    archive: Archive, authority: authorities.Authority
) -> None:
    """An answer to an earlier request, played again."""
    archive.put(salted(0))
    _load(archive, authority.url, authority.certificate)
    authority.answer = (authority.directory / "reply").read_bytes()
    archive.put(salted(1))
    _load(archive, authority.url, authority.certificate)
    assert "it stamps something else" in str(_events(archive, "stamp-failed")[0]["problem"])


def test_another_authority_is_not_believed(
    archive: Archive, authority: authorities.Authority, tmp_path: Path
) -> None:
    """Neither when it answers nor when its stamp is verified."""
    other = authorities.Authority(tmp_path / "other")
    try:
        archive.put(salted(0))
        _load(archive, other.url, authority.certificate)
        assert "has not signed it" in str(_events(archive, "stamp-failed")[0]["problem"])
        archive.put(salted(1))
        _load(archive, other.url, other.certificate)
    finally:
        other.close()
    found = verified(archive, replace(alone(archive), certificate=authority.certificate))
    assert [one.kind for one in found] == ["stamp"]


def test_a_chain_signed_anew_does_not_fit_its_stamps(
    archive: Archive, authority: authorities.Authority
) -> None:
    """Not even with the relay's own key: that is what stamps are for."""
    from support.forgery import forge  # noqa: PLC0415

    archive.put(salted(0))
    _load(archive, authority.url, authority.certificate)
    with tampering(archive) as connection:
        forge(connection)
    found = verified(archive, replace(alone(archive), certificate=authority.certificate))
    assert [(one.kind, one.number) for one in found] == [("stamp", 1)]


def test_a_changed_stamp_is_named(archive: Archive, authority: authorities.Authority) -> None:
    """Its signature does not fit any more."""
    archive.put(salted(0))
    _load(archive, authority.url, authority.certificate)
    with tampering(archive) as connection:
        token = bytes(connection.execute(select(schema.stamp.c.token)).scalar_one())
        changed = token[:-1] + bytes([token[-1] ^ 1])
        connection.execute(update(schema.stamp).values(token=changed))
    found = verified(archive, replace(alone(archive), certificate=authority.certificate))
    assert [one.kind for one in found] == ["stamp"]


def test_an_authority_that_sends_certificates_in_no_order_is_asked_without(
    archive: Archive, tmp_path: Path
) -> None:
    """As OpenSSL's do; the signer's certificate is then taken from the configured file."""
    other = authorities.Authority(tmp_path / "other", sends_all=True)
    both = tmp_path / "both.pem"
    both.write_bytes(other.certificate.read_bytes() + (other.directory / "leaf.pem").read_bytes())
    try:
        archive.put(salted(0))
        _load(archive, other.url, both)
    finally:
        other.close()
    assert _events(archive, "stamp-failed") == []
    assert verified(archive, replace(alone(archive), certificate=both)) == []


def test_a_missing_certificate_is_a_sentence(
    archive: Archive, authority: authorities.Authority, tmp_path: Path
) -> None:
    """With the path and the key of the configuration."""
    archive.put(salted(0))
    _load(archive, authority.url, tmp_path / "none.pem")
    assert "check record.timestamp.certificate" in str(_events(archive, "stamp-failed")[0])
