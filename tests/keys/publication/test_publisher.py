"""Who publishes for a domain, and what is said of rules that lack something."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.name_servers import TsigKey

from carbonseal.keys.publication import provider, publisher, update
from carbonseal.keys.publication.outcome import OutcomeKind
from carbonseal.keys.publication.settings import DnsSettings, PublishRule, ServerAddress
from carbonseal.policies import domains, errors

SERVER = ServerAddress("127.0.0.1", 5301)
NAME = "s1._domainkey.example.com"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A TSIG key."""
    return TsigKey().write(tmp_path / "tsig.key")


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """A provider's options."""
    path = tmp_path / "powerdns.yaml"
    path.touch(mode=0o600)
    path.write_text("auth_token: 0a1b2c\npdns_server: http://127.0.0.1:8081\n")
    return path


def settings(*rules: PublishRule) -> DnsSettings:
    """Settings with these rules."""
    return DnsSettings(publish=rules, timeout=2.0)


def test_the_first_rule_that_fits_names_the_publisher(key_file: Path, credentials: Path) -> None:
    """By domain; a domain that nobody names is published by hand."""
    found = settings(
        PublishRule(domains.DomainSet(["example.com"]), "rfc2136", SERVER, None, key_file),
        PublishRule(
            domains.DomainSet([".example.com"]),
            "provider",
            zone="example.com",
            provider="powerdns",
            credentials=credentials,
        ),
    )
    by_update = publisher.publisher_for(found, "example.com")
    assert isinstance(by_update, update.Rfc2136Publisher)
    assert (by_update.timeout, by_update.is_manual) == (2.0, False)
    assert by_update.explain() == "by RFC 2136 at 127.0.0.1@5301"
    by_provider = publisher.publisher_for(found, "mail.example.com")
    assert isinstance(by_provider, provider.ProviderPublisher)
    assert by_provider.explain() == "by the provider powerdns"
    assert not by_provider.is_manual
    assert publisher.publisher_for(found, "example.org").is_manual
    assert publisher.problems(found) == ()


def test_a_person_is_told_what_to_do() -> None:
    """Each verb by hand."""
    by: publisher.Publisher = publisher.ManualPublisher()
    outcomes = [by.add(NAME, "v", 60), by.change(NAME, "v", "w", 60), by.delete(NAME, "w")]
    assert {one.kind for one in outcomes} == {OutcomeKind.BY_HAND}
    assert all(NAME in one.sentence for one in outcomes)
    assert by.explain() == "by hand"


ALL = PublishRule(None)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        pytest.param(
            dataclasses.replace(ALL, method="rfc2136"), "needs `server`", id="update-no-server"
        ),
        pytest.param(
            dataclasses.replace(ALL, method="rfc2136", server=SERVER),
            "needs `key_file`",
            id="update-without-key",
        ),
        pytest.param(
            dataclasses.replace(ALL, method="rfc2136", server=SERVER, key_file=Path("/nowhere/k")),
            "/nowhere/k: it cannot be read",
            id="update-key-is-not-there",
        ),
        pytest.param(
            dataclasses.replace(ALL, method="provider"), "needs `provider`", id="no-provider"
        ),
        pytest.param(
            dataclasses.replace(ALL, method="provider", provider="powerdns"),
            "needs `credentials`",
            id="provider-without-credentials",
        ),
        pytest.param(
            dataclasses.replace(ALL, delegate="fixed.dkim.example.net"),
            "no name with {selector}",
            id="delegate-is-one-name-for-all",
        ),
        pytest.param(
            dataclasses.replace(ALL, delegate="{selector}.{domain}"),
            "no name with {selector}",
            id="delegate-with-another-word",
        ),
        pytest.param(
            dataclasses.replace(ALL, delegate="{selector}..net"),
            "no name with {selector}",
            id="delegate-is-no-name",
        ),
    ],
)
def test_a_rule_that_lacks_something_is_a_problem_with_a_remedy(
    rule: PublishRule, said: str
) -> None:
    """For `config check`; and such a rule publishes nothing."""
    [problem] = publisher.problems(settings(rule))
    assert said in problem
    assert problem.endswith(".")
    if rule.delegate is None:
        with pytest.raises(errors.ConfigurationError) as caught:
            publisher.publisher_for(settings(rule), "example.com")
        assert caught.value.sentence == problem


def test_every_rule_is_looked_at() -> None:
    """One problem does not hide the next."""
    one = PublishRule(domains.DomainSet(["a.example"]), "rfc2136")
    two = PublishRule(domains.DomainSet(["b.example"]), "provider")
    first, second = publisher.problems(settings(one, two))
    assert "a.example" in first
    assert "b.example" in second


def test_a_delegated_rule_is_fine() -> None:
    """As people write it."""
    rule = dataclasses.replace(ALL, delegate="{selector}.{sdid}.dkim.example.net.")
    assert publisher.problems(settings(rule)) == ()
