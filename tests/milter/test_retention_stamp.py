"""The retention stamp on its way from the configuration into the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.sealing import recorded

from carbonseal.keys import keyring
from carbonseal.milter import config, explain, seal
from carbonseal.milter.archive import record
from carbonseal.policies.errors import ConfigurationError
from carbonseal.policies.retention import YEAR

RETENTION = {
    "classes": {"business": {"keep": "7y", "headers": "1y", "subject": "90d"}, "brief": {}},
    "rules": [{"crossing": "internal", "use": "brief"}],
    "default": "business",
    "ceiling": {"keep": "10y"},
}
OUTBOUND = explain.Question("192.0.2.7", "a@example.com", ["b@remote.test"])
INTERNAL = explain.Question("192.0.2.7", "a@example.com", ["b@example.com"])


def configured(tmp_path: Path, retention: dict[str, Any] | None) -> config.Configuration:
    sections: dict[str, Any] = {
        "ours": {"domains": ["example.com"], "networks": ["192.0.2.0/24"]},
        "signing": {"keys": str(tmp_path / "keys")},
        "record": {"spool": str(tmp_path / "spool")},
    }
    if retention is not None:
        sections["retention"] = retention
    path = tmp_path / "carbonseal.yaml"
    path.write_text(yaml.safe_dump(sections))
    for name in ("keys", "spool"):
        (tmp_path / name).mkdir(exist_ok=True)
    return config.load(path)


def sealed(question: explain.Question, configuration: config.Configuration) -> dict[str, Any]:
    """The record of a message, as it stands in the spool."""
    services = seal.Services(
        configuration=configuration,
        keyring=lambda: keyring.EMPTY,
        key_complaint=lambda: None,
        relay="mx1.example.com",
        archive_addresses=frozenset(),
    )
    transaction = explain._transaction(question, configuration)
    recorded(
        seal.seal(transaction, services, 1_795_237_200.0, prepared=str),
        configuration.spool_directory,
    )
    [path] = [one for one in configuration.spool_directory.iterdir() if one.is_file()]
    return record.parse(path.read_bytes().splitlines()[0])


def test_the_class_and_its_own_numbers_stand_in_the_record(tmp_path: Path) -> None:
    """So that what is configured later can neither shorten nor lengthen it."""
    content = sealed(OUTBOUND, configured(tmp_path, RETENTION))
    assert content["retention"] == {
        "class": "business",
        "keep": 7 * YEAR,
        "headers": YEAR,
        "subject": 90 * 86400,
    }
    assert "retention-default(business)" in content["reasons"]


def test_a_class_that_leaves_it_open_gets_the_ceiling(tmp_path: Path) -> None:
    """What is not written down cannot contradict it."""
    content = sealed(INTERNAL, configured(tmp_path, RETENTION))
    assert content["retention"]["class"] == "brief"
    assert content["retention"]["keep"] == 10 * YEAR
    assert "retention-rule(brief)" in content["reasons"]


def test_without_the_section_nothing_is_stamped(tmp_path: Path) -> None:
    """And so nothing ever expires."""
    content = sealed(OUTBOUND, configured(tmp_path, None))
    assert content["retention"] is None
    assert not [one for one in content["reasons"] if one.startswith("retention")]


def test_explain_says_the_class_and_why(tmp_path: Path) -> None:
    """Before the first message is sealed."""
    answer = explain.explain(INTERNAL, configured(tmp_path, RETENTION))
    assert answer.would_keep is not None
    assert answer.would_keep.name == "brief"
    assert answer.reasons[-1].sentence == "Kept as class brief: a rule is about it."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"floor": {"keep": "8y"}}, ["7y", "floor"], id="under-the-floor"),
        pytest.param({"default": "buisness"}, ["'buisness'", "business"], id="unknown-class"),
        pytest.param({"classes": {"x": {"keep": "6m"}}}, ["90d", "1y is 366 days"], id="months"),
        pytest.param({"classes": {"x": {"keep": "0d"}}}, ["86400"], id="nothing-at-all"),
        pytest.param({"ceilling": {}}, ["did you mean ceiling"], id="misspelt"),
    ],
)
def test_a_section_that_cannot_be_names_its_place(
    tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    """File, line and what to write instead."""
    with pytest.raises(ConfigurationError) as refusal:
        configured(tmp_path, RETENTION | change)
    said = refusal.value.sentence.replace("2562 days", "7y")
    assert "carbonseal.yaml" in said
    assert "line" in said
    assert all(word in said for word in words), said
