"""The load notices: no rate of messages that were not signed, not copied or not accepted."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import verifiers
from support.carbonseal import ARCHIVE
from support.postfix import private_directory

from benchmarks import load, turns
from benchmarks.contestants import Carbonseal, Contestant, Key, OpenDkim, PymilterAlone

TINY_MILTER = Path(__file__).parents[1] / "wire/tiny_milter.py"


@pytest.fixture(scope="module", autouse=True)
def program() -> None:
    """The load, built from its source as it stands."""
    load.build()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return Key.make(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def product(key: Key) -> Iterator[Carbonseal]:
    with private_directory() as directory:
        milter = Carbonseal(directory / "seal", key)
        with milter:
            yield milter


@pytest.fixture(scope="module")
def opendkim(key: Key) -> Iterator[OpenDkim]:
    with private_directory() as directory:
        milter = OpenDkim(directory / "opendkim", key)
        with milter:
            yield milter


@pytest.fixture(params=["product", "opendkim"])
def milter(request: pytest.FixtureRequest) -> Contestant:
    found: Contestant = request.getfixturevalue(request.param)
    return found


@contextmanager
def tiny_milter(socket: Path, *options: str) -> Iterator[None]:
    """One that signs nothing."""
    process = subprocess.Popen(
        [sys.executable, TINY_MILTER, socket, *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield
    finally:
        process.kill()  # libmilter takes five seconds to stop
        process.wait()


def test_every_message_is_counted_as_signed_and_recorded(product: Carbonseal) -> None:
    """What the load counts is what the product did: a record for each message, no more."""
    before = product.accepted
    burst = product.send("--messages", 40, "--connections", 3, "--per-connection", 5)
    assert burst.messages == 40
    assert product.accepted == before + 40
    product.settle()
    assert product.recorded() == product.accepted


def test_what_ends_in_the_warm_up_is_in_no_rate(product: Carbonseal) -> None:
    """The writer has nothing to do at first: a rate without its work is none that lasts."""
    words = ("--archive", ARCHIVE, "--seconds", 0.2)
    _, whole, _ = load.run(product.socket, *words)
    status, warm, complaint = load.run(product.socket, *words, "--warm-up", 0.4)
    product.accepted += whole["messages"] + warm["messages"]
    assert whole["counted"] == whole["messages"]
    assert (status, complaint) == (0, "")
    assert 0 < warm["counted"] < warm["messages"]
    assert warm["rate"] == pytest.approx(warm["counted"] / warm["seconds"], rel=1e-3)
    status, _, complaint = load.run(product.socket, *words, "--messages", 1, "--warm-up", 60)
    product.accepted += 1
    assert status
    assert "nothing came back after the warm-up" in complaint


def test_an_mta_that_has_to_wait_for_answers_does(opendkim: OpenDkim, product: Carbonseal) -> None:
    """Each milter is spoken to as it negotiated: step by step, or in one go."""
    assert opendkim.send("--messages", 5).answers_awaited > 10
    assert product.send("--messages", 5).answers_awaited == 1


@pytest.mark.parametrize("body", ["text", "html", "base64"])
def test_what_is_counted_as_signed_verifies(
    milter: Contestant, key: Key, tmp_path: Path, body: str
) -> None:
    """The messages are sent as one byte stream that three verifiers find signed."""
    sample = tmp_path / "sample"
    options = ("--body", body, "--size", 150_000, "--headers", 40, "--recipients", 30)
    milter.send("--messages", 1, "--connections", 1, "--sample", sample, *options)
    judged = verifiers.verify_by_all(sample.read_bytes(), key.dns)
    for judge, judgements in judged.items():
        assert [one.result for one in judgements] == [verifiers.Result.PASS], judge


def test_the_floor_signs_what_it_is_measured_with(key: Key, tmp_path: Path) -> None:
    """What Carbonseal is set beside is a signature that verifies, whatever the body ends in."""
    sample = tmp_path / "sample"
    with private_directory() as directory, PymilterAlone(directory / "floor", key) as floor:
        for body in ("text", "html", "base64", "blanks"):
            floor.send("--messages", 1, "--sample", sample, "--body", body, "--size", 150_000)
            turns.verify(f"{floor.name}, {body}", sample.read_bytes(), key)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        pytest.param(
            ("--domain", "elsewhere.example"),
            # OpenDKIM leaves such a message alone as soon as it has seen the author.
            "no DKIM-Signature|decided before the end",
            id="a-domain-without-a-key",
        ),
        pytest.param(("--archive", "nobody@example.net"), "archive recipient", id="another-copy"),
        pytest.param(("--unsigned",), "should not be signed", id="signed-though-it-should-not-be"),
    ],
)
def test_what_does_not_come_back_as_expected_is_a_failure(
    milter: Contestant, options: tuple[str, ...], complaint: str
) -> None:
    """Each message counts as failed, and the run fails."""
    status, report, _ = load.run(milter.socket, "--messages", 20, "--connections", 2, *options)
    assert status == 1
    assert (report["messages"], report["failures"]) == (20, 20)
    assert re.search(complaint, report["first_failure"])
    if isinstance(milter, Carbonseal):
        milter.accepted += 20  # accepted they were, and recorded


def test_a_line_too_long_to_be_signed_is_left_unsigned(product: Carbonseal) -> None:
    """The point with a megabyte of spaces on one line measures what it says."""
    options = ("--body", "spaces", "--size", 100_000, "--messages", 4)
    product.send(*options, "--unsigned")
    with pytest.raises(load.LoadFailed, match="no DKIM-Signature"):
        product.send(*options)
    product.accepted += 4


@pytest.mark.parametrize(
    "options",
    [(), ("noreply",), ("skip",), ("no-body",), ("lists", "leading-space"), ("noreply", "lists")],
    ids=lambda options: "-".join(options) or "all-events-answered",
)
def test_a_milter_that_signs_nothing_has_no_rate(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Whatever it negotiated, the whole message is led to its end and then counted as failed."""
    with private_directory() as directory:
        socket = directory / "tiny.sock"
        with tiny_milter(socket, *options):
            status, report, complaint = load.run(
                socket, "--messages", 4, "--connections", 2, "--size", 200_000, "--recipients", 3
            )
    assert (status, complaint) == (1, "")
    assert (report["messages"], report["failures"]) == (4, 4)
    assert "no DKIM-Signature" in report["first_failure"]


def test_nobody_there_is_a_failure(tmp_path: Path) -> None:
    """No report at all, and a sentence."""
    status, report, complaint = load.run(tmp_path / "none.sock", "--messages", 1)
    assert (status, report) == (2, {})
    assert "nobody answers" in complaint


def test_a_signature_that_does_not_verify_is_noticed(
    product: Carbonseal, key: Key, tmp_path: Path
) -> None:
    """The proof before each point is one."""
    sample = tmp_path / "sample"
    options: tuple[Any, ...] = ("--messages", 1, "--connections", 1, "--archive", ARCHIVE)
    product.send(*options, "--sample", sample)
    message = sample.read_bytes()
    turns.verify("Carbonseal", message, key)
    with pytest.raises(turns.BadSignature):
        turns.verify("Carbonseal", message.replace(b"Subject: D", b"Subject: d"), key)
