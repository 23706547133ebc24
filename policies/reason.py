"""Reasons: why something was decided, in a form that log, record and person can share.

Promises: a `Reason` is a stable code plus what it is about.  `SENTENCES` explains every code, and
a test compares that catalogue with the codes the policies use, so no decision is unexplained.

Does not: decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of a decision."""

    code: str  # stable, kebab-case, a key of SENTENCES
    about: str = ""  # the address, domain, field or number it is about

    def __str__(self) -> str:
        return f"{self.code}({self.about})" if self.about else self.code

    @property
    def sentence(self) -> str:
        """The reason in words, for `policy explain` and `archive show`."""
        return SENTENCES[self.code].format(about=self.about)


SENTENCES: Mapping[str, str] = {
    # The dry run (seal)
    "dry-run": (
        "Dry run: nothing was done to the message; what would have been stands under dry_run."
    ),
    # Proof of origin (origin)
    "origin-login": "The client logged in as {about}, which proves that the mail is ours.",
    "origin-listener": "The mail came in on the listener {about}, which proves that it is ours.",
    "origin-network": "The client belongs to our network {about}.",
    "origin-local-submission": "The mail was handed to {about} on the relay itself.",
    "origin-peer": "The client is the peer relay {about}, which has sealed the mail already.",
    "origin-none": "Nothing proves that {about} may speak for our domains.",
    # The reverse-path (boundary)
    "null-reverse-path-inside": "The reverse-path is null and the client is ours.",
    "null-reverse-path-outside": "The reverse-path is null and the client is not ours.",
    "reverse-path-inside": "The reverse-path {about} is ours.",
    "reverse-path-outside": "The reverse-path {about} is not ours.",
    "reverse-path-unproven": (
        "The reverse-path {about} carries our domain, but nothing proves that the client may "
        "use it."
    ),
    "reverse-path-rerouted": "The reverse-path was written so that Postfix reads another: {about}.",
    "reverse-path-srs": "The reverse-path {about} was rewritten by a forwarder: it began outside.",
    # The recipients (boundary)
    "recipient-inside": "The recipient {about} is ours.",
    "recipient-outside": "The recipient {about} is not ours.",
    "recipient-rerouted": "The recipient was written so that Postfix reads another: {about}.",
    "recipient-routed": "The recipient {about} carries a route that only Postfix could resolve.",
    "recipient-alias-only": "The recipient {about} exists as an alias only; it may lead outside.",
    "recipient-unreadable": "The recipient {about} cannot be read; it counts as outside.",
    "recipient-is-archive": "The recipient {about} is an archive recipient.",
    # Signing
    "signing": "The domain {about} signs.",
    "signed": "Signed with the key {about}.",
    "signature-failed": "The signature could not be made or did not verify: {about}.",
    "peer-sealed": "Not signed: the peer {about} did that.",
    "no-origin-proof": "Not signed: nothing proves that {about} may speak for our domains.",
    "no-author": "Not signed: the message has no From field.",
    "several-author-fields": "Not signed: the message has more than one From field ({about}).",
    "several-authors": "Not signed: From names more than one mailbox ({about}).",
    "group-author": "Not signed: From names a group.",
    "unparsable-author": "Not signed: From cannot be read without doubt.",
    "author-not-allowed": "Not signed: the login may not use this author ({about}).",
    "author-exempt": "Not signed: a rule says that mail of {about} is never signed.",
    "author-not-ours": "Not signed: there is no key and no rule for the author {about}.",
    "no-active-key": "Not signed: a rule names {about}, which has no active key.",
    "key-unusable": "Not signed: the key cannot be used: {about}",
    "key-refused": "Not signed: the published record of the key is wrong: {about}",
    "too-many-fields": "Not signed: {about} header fields would have to be covered.",
    "header-too-large": (
        "Refused: the header section goes on after {about} fields, where it is read no further."
    ),
    "too-many-recipients": (
        "Refused: the recipients go on after {about}, where nobody knows them any more."
    ),
    "line-too-long": "Not signed: Postfix cuts lines over 998 octets after the milter ({about}).",
    "bare-line-ends": (
        "Not signed: the body holds CR or LF that stand alone, which verifiers read differently."
    ),
    "disputed-octets": (
        "Not signed: {about} holds control characters that verifiers read differently."
    ),
    "eight-bit-content": (
        "The body holds 8-bit octets; a next hop without 8BITMIME would have them re-encoded, "
        "which breaks the signature."
    ),
    "malformed-signature-present": (
        "The message carries a malformed DKIM-Signature field, which makes some verifiers give up."
    ),
    # The archive copy (archiving)
    "archive-copy": "The archive copy goes to {about}.",
    "archive-alternate": "Copies for {about} do not arrive; an alternate gets this one.",
    "archive-trial": "{about} gets this one as well, to see whether copies arrive there again.",
    "archive-all-fail": (
        "Copies for {about} do not arrive, nor those for any alternate; all of them get this one."
    ),
    "archive-addressed": "No archive copy: the sender addressed {about} already.",
    "purely-local": "No archive copy: both ends are inside.",
    "copied-by-peer": "No archive copy: the peer {about} added it.",
    "copies-switched-off": "No archive copy: archive.when says never.",
    "no-archive-recipient": "No archive copy: no archive recipient is configured.",
    # How long the record is kept (retention)
    "retention-rule": "Kept as class {about}: a rule is about it.",
    "retention-default": "Kept as class {about}: no rule is about it.",
    # Postfix's own BCC maps beside it (bcc_maps)
    "bcc-maps-agree": "The BCC maps of Postfix would do the same: {about}.",
    "bcc-maps-would-miss": "The BCC maps of Postfix would not send the copy to {about}.",
    "bcc-maps-would-add": "The BCC maps of Postfix would send a copy to {about}; we do not.",
    "bcc-maps-would-double": (
        "The BCC maps of Postfix would send a second copy to {about}, which the sender addressed."
    ),
    "bcc-maps-unknown": "What the BCC maps of Postfix would do is unknown: {about}.",
    # The record
    "record-not-writable": "The record could not be made durable: {about}",
}
