"""The generated mail is what the benchmarks take it for: lasting, realistic, and as `seal` says."""

from __future__ import annotations

import ipaddress
import statistics
from collections import Counter
from datetime import datetime
from functools import cache

import pytest

from carbonseal.milter.archive import derive, record, rows, schema
from carbonseal.policies import address, archiving, boundary, domains, header_fields, origin
from carbonseal.policies import reason as reasons
from carbonseal.policies.archiving import ArchivePolicy
from carbonseal.policies.envelope import Client, Envelope, Recipient, ReversePath
from carbonseal.policies.origin import Ours
from traffic import generator, people, relay
from traffic.generator import Record, World

COUNT = 4000


@cache
def sample() -> list[Record]:
    return list(generator.records(COUNT, seed=5))


def test_the_same_seed_and_count_give_the_same_records_whichever_part_comes_first() -> None:
    """A run can go on where it stopped, and two processes can share the work."""
    count = generator.PART + 50
    last = list(World(count).part(1))
    assert len(last) == 50
    assert last == list(World(count).part(1))
    assert last != list(World(count, seed=2).part(1))
    assert len(sample()) == COUNT
    assert len({one["record_id"] for one in sample()}) == COUNT


def test_every_record_survives_the_spool_and_the_database() -> None:
    """Nothing about the invented mail is such that the archive could not tell it back exactly."""
    for content in sample():
        parsed = record.parse(record.encode(content))
        assert parsed["header_fields"] == [list(one) for one in content["header_fields"]]
        assert rows.join(rows.split(parsed)) == parsed


def test_most_records_need_no_copy_of_themselves_beside_their_columns() -> None:
    """Otherwise the octets that the benchmark counts would be those of an exception."""
    parsed = [record.parse(record.encode(one)) for one in sample()]
    verbatim = [one for one in map(rows.split, parsed) if one.message["verbatim"] is not None]
    assert not verbatim


def test_the_policies_come_to_the_same_decisions() -> None:
    """Crossing, places, reasons and copies are what the product itself would have recorded."""
    ours = Ours(
        domains=domains.DomainSet([*people.OURS, people.WITHOUT_KEY]),
        networks=(ipaddress.ip_network(relay.APPLICATIONS),),
        peers=(ipaddress.ip_network(relay.PEERS),),
    )
    policy = ArchivePolicy(recipients=(address.parse_address(relay.ARCHIVE),))
    for content in sample():
        envelope = _envelope(content)
        proof = origin.prove(envelope, ours)
        found = boundary.classify(envelope, ours, proof, policy.all_recipients())
        copy = archiving.recipients(found, proof, policy)
        assert {"kind": proof.kind, "about": proof.about} == content["origin"]
        assert found.crossing == content["crossing"]
        assert str(found.reverse_path.why) == content["reverse_path"]["why"]
        assert [str(one.why) for one in found.recipients] == [
            one["why"] for one in content["recipients"]
        ]
        said = [str(one) for one in (proof.reason, *found.reasons)]
        assert content["reasons"][: len(said)] == said
        assert list(copy.add) == content["archive_recipients"]
        assert content["reasons"][-1:] == [str(one) for one in copy.reasons]


def _envelope(content: Record) -> Envelope:
    client, path = content["client"], content["reverse_path"]
    return Envelope(
        client=Client(client["address"], client["port"], client["name"], client["helo"]),
        listener=content["listener"],
        login=content["login"],
        login_method=content["login_method"],
        reverse_path=ReversePath(
            address.parse_path(path["raw"]), path["resolved"], tuple(path["esmtp"])
        ),
        recipients=tuple(
            Recipient(
                address.parse_path(one["raw"]),
                one["resolved"],
                one["mailer"],
                one["host"],
                tuple(one["esmtp"]),
            )
            for one in content["recipients"]
        ),
    )


def test_all_reasons_are_known_ones() -> None:
    """A misspelt reason would not be explained by `archive show`."""
    codes = {text.partition("(")[0] for one in sample() for text in one["reasons"]}
    assert codes <= reasons.SENTENCES.keys()
    assert {"signed", "no-origin-proof", "peer-sealed", "author-not-ours"} <= codes


def test_every_crossing_has_its_share() -> None:
    share = {
        what: count / COUNT for what, count in Counter(one["crossing"] for one in sample()).items()
    }
    assert share.keys() == set(schema.CROSSINGS)
    assert 0.3 < share["inbound"] < 0.6
    assert 0.2 < share["outbound"] < 0.5
    assert 0.1 < share["internal"] < 0.3
    assert 0.005 < share["transit"] < 0.05


def test_a_few_write_most_and_most_write_little() -> None:
    """Otherwise neither the rare look-ups nor the frequent ones would be met."""
    writers = Counter(one["reverse_path"]["address"].lower() for one in sample())
    del writers[""]
    ranked = [count for _, count in writers.most_common()]
    assert ranked[0] > 0.01 * COUNT
    assert sum(count == 1 for count in ranked) > len(ranked) / 2
    assert sum(ranked[: len(ranked) // 10]) > 0.4 * sum(ranked)


def test_there_are_more_people_and_words_where_there_is_more_mail() -> None:
    small, large = World(10_000), World(1_000_000)
    assert 8 < len(large.people.strangers) / len(small.people.strangers) < 11
    assert len(large.people.strangers) > 50_000


def test_header_sections_are_as_long_as_those_of_real_mail() -> None:
    counts = [len(one["header_fields"]) for one in sample()]
    assert min(counts) >= 9
    assert 14 < statistics.mean(counts) < 30
    assert max(counts) <= 60
    sizes = sorted(one["size"] for one in sample())
    assert 5_000 < sizes[COUNT // 2] < 30_000
    assert sizes[-1] > 20 * sizes[COUNT // 2]  # a long tail of attachments


def test_mail_comes_in_working_hours_of_three_years() -> None:
    moments = [datetime.fromisoformat(one["recorded_at"]) for one in sample()]
    assert {one.year for one in moments} == {2023, 2024, 2025}
    assert len({(one.year, one.month) for one in moments}) == 36
    at_weekends = sum(one.weekday() >= 5 for one in moments) / COUNT
    assert at_weekends < 0.1
    by_day = sum(6 <= one.hour < 18 for one in moments) / COUNT
    assert by_day > 0.8
    ids = [one["record_id"][:10] for one in sample() if one["relay"] != relay.HUB]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("script", "least"),
    [
        pytest.param("αβγδεζηθικλμνοπρστυφχψω", 0.01, id="greek"),
        pytest.param("абвгдежзийклмнопрстуфхцчшщыэюя", 0.01, id="russian"),
        pytest.param("אבגדהוזחטיכלמנסעפצקרשת", 0.003, id="hebrew"),
        pytest.param("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", 0.003, id="arabic"),
        pytest.param("請求書会議注文契約報告", 0.005, id="japanese"),
        pytest.param("äöüß", 0.03, id="german"),
        pytest.param("éèêçà", 0.01, id="french"),
        pytest.param("łąęśżźćó", 0.01, id="polish"),
        pytest.param("🎉🔥✅📣💡🚚⏰🎁👋", 0.01, id="emoji"),
    ],
)
def test_subjects_are_in_many_languages(script: str, least: float) -> None:
    """Decoded from their encoded words, as the archive shows them."""
    wanted = set(script)
    subjects = [
        derive.derive([list(field) for field in one["header_fields"]]).subject or ""
        for one in sample()
    ]
    assert sum(bool(wanted & set(text.lower())) for text in subjects) / COUNT > least
    assert not any("=?" in text or "\ufffd" in text for text in subjects)


def test_encoded_words_keep_to_the_bounds_of_rfc_2047() -> None:
    for one in sample():
        for name, value in one["header_fields"]:
            for word in value.split():
                if word.startswith("=?"):
                    assert len(word) <= 75, (name, word)


def test_what_makes_an_archive_interesting_is_there() -> None:
    """Each kind of mail that officers ask for."""
    found = Counter()
    for one in sample():
        names = {name.lower() for name, _ in one["header_fields"]}
        found["null reverse-path"] += not one["reverse_path"]["address"]
        found["answer"] += "references" in names
        found["list"] += "list-id" in names
        found["extension"] += any("+" in path["address"] for path in one["recipients"])
        found["verp"] += "=" in one["reverse_path"]["address"]
        found["many"] += len(one["recipients"]) > 20
        found["unsigned"] += one["crossing"] == "outbound" and not one["signatures"]
        found["two signatures"] += len(one["signatures"]) == 2
        found["spelling"] += one["reverse_path"]["address"] != one["reverse_path"]["resolved"]
        found["ipv6"] += ":" in one["client"]["address"]
    assert not [what for what, count in found.items() if count < COUNT / 1000], found
    selectors = {made["selector"] for one in sample() for made in one["signatures"]}
    assert len(selectors) > 12
    again = Counter(
        header_fields.message_id(dict(one["header_fields"])["Message-ID"].encode())
        for one in sample()
    )
    assert max(again.values()) == 2  # sealed by two relays


def test_blind_recipients_are_in_the_envelope_only() -> None:
    blind = 0
    for one in sample():
        if one["crossing"] == "inbound" or one["origin"]["kind"] != "login":
            continue
        shown = derive.derive([list(field) for field in one["header_fields"]])
        named = {text.lower() for text in (*shown.to, *shown.cc)}
        blind += any(path["address"].lower() not in named for path in one["recipients"])
    assert blind > COUNT / 500
