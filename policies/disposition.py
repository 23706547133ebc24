"""What the MTA is told when something went wrong: the failure policy.

Promises: each class of failure has its own answer with a safe default, so that one broken domain
never stops another and nothing is accepted in silence.  Replies follow RFC 3463.

Does not: decide about messages that went well; those are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class FailureClass(StrEnum):
    """The kinds of failure an operator can answer differently."""

    NO_USABLE_KEY = "no_usable_key"  # a rule names a domain that has no active key
    UNREADABLE_KEY = "unreadable_key"  # there is an active key, but it cannot be loaded
    KEY_NOT_PUBLISHED = "key_not_published"  # no name server shows the active key's record
    UNUSABLE_AUTHOR = "unusable_author"  # From is missing, doubled, a group or not parsable
    TRANSFORMATION = "transformation"  # Postfix is sure to break the signature later
    HEADER_TOO_LARGE = "header_too_large"  # more header fields than any letter has
    TOO_MANY_RECIPIENTS = "too_many_recipients"  # more than are kept: nobody knows all of them
    SIGNATURE_FAILED = "signature_failed"  # made, but it did not verify
    RECORD_NOT_WRITABLE = "record_not_writable"  # the spool cannot be written
    INTERNAL_ERROR = "internal_error"  # a defect of ours


class Answer(StrEnum):
    """What the MTA is told."""

    ACCEPT = "accept"
    TEMPFAIL = "tempfail"
    REJECT = "reject"


DEFAULTS: Mapping[FailureClass, Answer] = {
    # A domain without a key must not stop its mail: that is how relays come to a halt at night.
    FailureClass.NO_USABLE_KEY: Answer.ACCEPT,
    # A key that is there but cannot be read is an accident that is mended soon; mail can wait.
    FailureClass.UNREADABLE_KEY: Answer.TEMPFAIL,
    # Its signatures would fail everywhere: as good as no key, and it may last until DNS is mended.
    FailureClass.KEY_NOT_PUBLISHED: Answer.ACCEPT,
    FailureClass.UNUSABLE_AUTHOR: Answer.ACCEPT,
    FailureClass.TRANSFORMATION: Answer.ACCEPT,
    FailureClass.HEADER_TOO_LARGE: Answer.REJECT,
    # The same message would come again and again until its sender is told.
    FailureClass.TOO_MANY_RECIPIENTS: Answer.REJECT,
    FailureClass.SIGNATURE_FAILED: Answer.ACCEPT,
    FailureClass.RECORD_NOT_WRITABLE: Answer.TEMPFAIL,
    FailureClass.INTERNAL_ERROR: Answer.TEMPFAIL,
}

_TEXTS: Mapping[FailureClass, tuple[str, str]] = {
    FailureClass.NO_USABLE_KEY: ("7.5", "No signing key for the author's domain"),
    FailureClass.UNREADABLE_KEY: ("7.5", "The signing key cannot be used"),
    FailureClass.KEY_NOT_PUBLISHED: ("7.5", "The signing key is not published"),
    FailureClass.UNUSABLE_AUTHOR: ("7.7", "The From field does not name one author"),
    FailureClass.TRANSFORMATION: ("6.3", "The message would be altered on its way"),
    FailureClass.HEADER_TOO_LARGE: ("3.4", "The header section is too large"),
    FailureClass.TOO_MANY_RECIPIENTS: ("5.3", "Too many recipients in one message"),
    FailureClass.SIGNATURE_FAILED: ("7.5", "The message could not be signed"),
    FailureClass.RECORD_NOT_WRITABLE: ("3.0", "The message could not be recorded"),
    FailureClass.INTERNAL_ERROR: ("3.0", "The message could not be sealed"),
}


@dataclass(frozen=True, slots=True)
class Disposition:
    """The answer to the MTA with its reply."""

    answer: Answer
    code: str = "250"
    enhanced: str = "2.0.0"
    text: str = ""


ACCEPTED = Disposition(Answer.ACCEPT)


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """The operator's answers; what is not listed keeps its default."""

    overrides: Mapping[FailureClass, Answer]

    def dispose(self, failure: FailureClass | None) -> Disposition:
        """The disposition for `failure`; accepted when there is none."""
        if failure is None:
            return ACCEPTED
        answer = self.overrides.get(failure, DEFAULTS[failure])
        if answer is Answer.ACCEPT:
            return ACCEPTED
        detail, text = _TEXTS[failure]
        if answer is Answer.TEMPFAIL:
            return Disposition(answer, "451", f"4.{detail}", f"{text}; try again later")
        return Disposition(answer, "550", f"5.{detail}", text)
