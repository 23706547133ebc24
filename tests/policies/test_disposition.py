"""The failure policy: safe defaults, overrides one by one."""

from __future__ import annotations

import pytest

from carbonseal.policies.disposition import (
    DEFAULTS,
    Answer,
    FailureClass,
    FailurePolicy,
)
from carbonseal.policies.survival import BodyFacts, broken_by, endangered_by, longest_field_line


@pytest.mark.parametrize("failure", list(FailureClass))
@pytest.mark.parametrize("answer", list(Answer))
def test_each_class_can_be_answered_in_each_way(failure: FailureClass, answer: Answer) -> None:
    """451 and 550 with an enhanced status of the same class; nothing else changes."""
    disposition = FailurePolicy({failure: answer}).dispose(failure)
    assert disposition.answer is answer
    first = {Answer.ACCEPT: "2", Answer.TEMPFAIL: "4", Answer.REJECT: "5"}[answer]
    assert disposition.code[0] == disposition.enhanced[0] == first
    assert "%" not in disposition.text


def test_what_cannot_be_recorded_or_sealed_is_tempfailed_by_default() -> None:
    """No message is accepted without a durable record."""
    assert DEFAULTS[FailureClass.RECORD_NOT_WRITABLE] is Answer.TEMPFAIL
    assert DEFAULTS[FailureClass.INTERNAL_ERROR] is Answer.TEMPFAIL


def test_what_would_come_again_the_same_is_rejected_by_default() -> None:
    """Its sender hears of it at once, and not after days of tries."""
    assert DEFAULTS[FailureClass.HEADER_TOO_LARGE] is Answer.REJECT
    assert DEFAULTS[FailureClass.TOO_MANY_RECIPIENTS] is Answer.REJECT


def test_no_failure_is_accepted() -> None:
    """The policy is asked about failures only."""
    assert FailurePolicy({}).dispose(None).answer is Answer.ACCEPT


@pytest.mark.parametrize(
    ("facts", "lines", "code"),
    [
        pytest.param(BodyFacts(10, 998, False), [("Subject", 998)], None, id="just-fits"),
        pytest.param(BodyFacts(10, 999, False), [], "line-too-long", id="body-line-of-999"),
        pytest.param(
            BodyFacts(10, 10, False), [("Subject", 999)], "line-too-long", id="field-line-of-999"
        ),
    ],
)
def test_what_postfix_is_sure_to_break_is_known_beforehand(
    facts: BodyFacts, lines: list[tuple[str, int]], code: str | None
) -> None:
    """smtp(8) cuts lines over 998 octets."""
    reason = broken_by(facts, lines)
    assert (reason.code if reason else None) == code


def test_eight_bit_content_is_a_warning_only() -> None:
    """Whether it is re-encoded depends on the next hop."""
    assert [one.code for one in endangered_by(BodyFacts(1, 1, True), [])] == ["eight-bit-content"]
    assert endangered_by(BodyFacts(1, 1, False), []) == []


def test_a_malformed_signature_that_is_there_already_is_a_warning() -> None:
    """Some verifiers give up on it before they come to ours."""
    whole = b" v=1; a=rsa-sha256; d=x; s=y; h=from; bh=z; b=q"
    assert endangered_by(BodyFacts(1, 1, False), [whole]) == []
    for broken in (b"", b" v=1; a=rsa-sha256", b" rubbish"):
        (reason,) = endangered_by(BodyFacts(1, 1, False), [whole, broken])
        assert reason.code == "malformed-signature-present"


def test_the_longest_line_of_a_folded_field_counts_its_name() -> None:
    """`Name:` is part of the first line on the wire."""
    assert longest_field_line("Subject", b" " + b"x" * 10) == 19
    assert longest_field_line("X", b" a\n " + b"y" * 50) == 51
