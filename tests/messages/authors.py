"""The From field: every spelling that made a signer vouch for the wrong domain, or fall over."""

from __future__ import annotations

from functools import partial

from messages.case import Case
from messages.compose import case, letter

OURS = b"From: Alice <alice@example.com>"
THEIRS = b"From: Mallory <mallory@remote.test>"


def written(
    name: str, value: bytes, about: str, *, covers: str, why: str | None = None, note: str = ""
) -> Case:
    """A letter from inside to a partner with this From value (after its colon)."""
    build = partial(letter, b"From:" + value)
    return case(name, about, covers=covers, build=build, why=why, note=note)


def _international(name: str, value: bytes, about: str, *, why: str | None = None) -> Case:
    return case(
        name,
        about,
        covers="idn-author smtputf8",
        build=partial(letter, b"From:" + value),
        why=why,
        parameters=(b"SMTPUTF8", b"BODY=8BITMIME"),
    )


_FIELDS = (
    case(
        "from-field-twice",
        "Readers show one From, verifiers check another.",
        covers="several-from-fields",
        build=partial(letter, OURS, b"From: Bob <bob@example.com>"),
        why="several-author-fields",
    ),
    case(
        "stranger-in-the-second-from-field",
        "The last From must not decide, nor the first.",
        covers="several-from-fields",
        build=partial(letter, OURS, THEIRS),
        why="several-author-fields",
    ),
    case(
        "stranger-in-the-first-from-field",
        "The first From must not decide, nor the last.",
        covers="several-from-fields",
        build=partial(letter, THEIRS, OURS),
        why="several-author-fields",
    ),
    case(
        "second-from-field-in-capitals-with-space",
        "Postfix makes 'FROM :' a plain From after all; two are two in any spelling.",
        covers="several-from-fields odd-field-name",
        build=partial(letter, OURS, b"FROM : Mallory <mallory@remote.test>"),
        why="several-author-fields",
    ),
    case(
        "no-from-field",
        "Without an author there is no domain to sign for; a signer that insists stops the mail.",
        covers="no-from",
        build=partial(letter, without="from"),
        why="no-author",
        note="For local_header_rewrite_clients Postfix adds it; that is signed.",
    ),
    case(
        "no-from-but-a-sender-of-ours",
        "Sender must not stand in for a missing author.",
        covers="no-from sender",
        build=partial(letter, b"Sender: alice@example.com", without="from"),
        why="no-author",
    ),
    case(
        "sender-is-ours-author-is-not",
        "A domain in Sender is no claim of authorship.",
        covers="sender foreign-author",
        build=partial(letter, THEIRS, b"Sender: alice@example.com"),
        why="author-not-ours",
    ),
    case(
        "author-is-ours-sender-is-not",
        "A sending service of a partner in Sender does not take the author away.",
        covers="sender",
        build=partial(letter, OURS, b"Sender: desk@partner.example"),
    ),
    case(
        "two-authors-with-a-sender",
        "A Sender does not say whose domain answers for two authors.",
        covers="several-authors sender",
        build=partial(
            letter,
            b"From: alice@example.com, mallory@remote.test",
            b"Sender: alice@example.com",
        ),
        why="several-authors",
    ),
    case(
        "author-at-our-subsidiary",
        "A subdomain with a key of its own signs for itself.",
        covers="subdomain",
        build=partial(letter, b"From: Dan <dan@mail.corp.example.com>"),
        reverse_path=b"dan@mail.corp.example.com",
    ),
)

_SPELLINGS = (
    written(
        "author-domain-in-capitals",
        b" Alice <Alice@EXAMPLE.COM>",
        "Domains have no case; a table that has one leaves this mail unsigned.",
        covers="capital-domain",
    ),
    written(
        "our-address-as-display-name",
        b' "ceo@example.com" <mallory@remote.test>',
        "The display name claims us, the address does not.",
        covers="address-in-display-name",
        why="author-not-ours",
    ),
    written(
        "stranger-as-display-name",
        b' "mallory@remote.test" <alice@example.com>',
        "A quoted address before the real one must not confuse the parser.",
        covers="address-in-display-name",
    ),
    written(
        "our-address-in-a-comment",
        b" mallory@remote.test (alice@example.com)",
        "An address in a comment is no author.",
        covers="address-in-comment",
        why="author-not-ours",
    ),
    written(
        "stranger-in-a-comment",
        b" alice@example.com (for \\) <mallory@remote.test>, )",
        "A comment with brackets, a comma and an escaped parenthesis is still a comment.",
        covers="address-in-comment",
    ),
    written(
        "two-authors-of-ours",
        b" alice@example.com, bob@example.com",
        "Two mailboxes have no single author domain, even where both are ours.",
        covers="several-authors",
        why="several-authors",
    ),
    written(
        "author-group",
        b" Board: alice@example.com, bob@example.com;",
        "A group names a crowd, not an author.",
        covers="group",
        why="group-author",
    ),
    written(
        "author-group-without-members",
        b" Undisclosed authors:;",
        "RFC 6854 allows it; there is nobody to sign for.",
        covers="group",
        why="group-author",
    ),
    written(
        "comma-in-a-quoted-name",
        b' "Archer, Alice" <alice@example.com>',
        "A comma between quotes does not make two authors.",
        covers="display-name",
    ),
    written(
        "comma-in-an-unquoted-name",
        b" Archer, Alice <alice@example.com>",
        "Old programs forget the quotes; half an address is no address.",
        covers="display-name unparsable-from",
        why="unparsable-author",
        note="Where Postfix completes addresses it becomes 'Archer@myorigin,': several-authors.",
    ),
    written(
        "encoded-name-with-a-comma",
        b" =?UTF-8?Q?Archer=2C_Alic=C3=A9?= <alice@example.com>",
        "Decoding the name before parsing finds a comma that is none.",
        covers="display-name encoded-word",
    ),
    written(
        "address-inside-an-encoded-word",
        b" =?utf-8?Q?alice=40example=2Ecom?=",
        "What looks like an address after decoding is none (RFC 2047, 5).",
        covers="encoded-word unparsable-from",
        why="unparsable-author",
    ),
    written(
        "encoded-name-claims-another-address",
        b" =?utf-8?Q?ceo=40example=2Ecom_=3C?= <mallory@remote.test>",
        "An encoded name that shows our address and a bracket.",
        covers="encoded-word address-in-display-name",
        why="author-not-ours",
    ),
    written(
        "from-without-a-value",
        b"",
        "An empty From is a field without an author.",
        covers="unparsable-from empty-value",
        why="unparsable-author",
        note="'no-author' would be as safe.",
    ),
    written(
        "from-with-null-address",
        b" Alice <>",
        "Only a reverse-path may be null.",
        covers="unparsable-from",
        why="unparsable-author",
    ),
    written(
        "from-without-a-domain",
        b" MAILER-DAEMON",
        "An unqualified author gives no domain to choose a key by; a guess would be ours.",
        covers="unparsable-from unqualified",
        why="unparsable-author",
        note="For local_header_rewrite_clients Postfix completes it; that is signed.",
    ),
    written(
        "two-bracketed-addresses",
        b" <alice@example.com> <mallory@remote.test>",
        "Readers differ in which one they show.",
        covers="unparsable-from",
        why="unparsable-author",
    ),
    written(
        "two-addresses-without-comma",
        b" alice@example.com mallory@remote.test",
        "Readers differ in which one they show.",
        covers="unparsable-from",
        why="unparsable-author",
    ),
    written(
        "address-with-two-ats",
        b" alice@example.com@remote.test",
        "Split at the first @ it is ours, split at the last it is not.",
        covers="unparsable-from",
        why="unparsable-author",
    ),
    written(
        "quote-never-closed",
        b' "Alice <alice@example.com>',
        "Everything after the quote is its content, so there is no address.",
        covers="unparsable-from",
        why="unparsable-author",
    ),
    written(
        "bracket-never-closed",
        b" Alice <alice@example.com",
        "A cut address is not without doubt.",
        covers="unparsable-from",
        why="unparsable-author",
    ),
    written(
        "four-hundred-open-comments",
        b" alice@example.com " + b"(" * 400,
        "A recursive parser runs out of stack; a backtracking one out of time.",
        covers="unparsable-from parser-bound",
        why="unparsable-author",
    ),
    written(
        "thousand-mailboxes-in-from",
        b"".join(b" user%d@example.com,\r\n" % at for at in range(999)) + b" last@example.com",
        "A parser with quadratic cost holds up every other message.",
        covers="several-authors parser-bound",
        why="several-authors",
        note="A parser that stops at a bound may say 'unparsable-author'.",
    ),
    written(
        "author-folded-before-the-address",
        b"\r\n Alice Archer\r\n\t<alice@example.com>",
        "A From whose first line is empty.",
        covers="folded-value",
    ),
    written(
        "author-with-quoted-local-part",
        b' "alice archer"@example.com',
        "A local part with a space is legal.",
        covers="quoted-local-part",
    ),
    written(
        "stranger-in-the-quoted-local-part",
        b' "mallory@remote.test"@example.com',
        "The last unquoted @ makes it ours, but some readers show the address in the quotes.",
        covers="quoted-local-part unparsable-from",
        why="unparsable-author",
    ),
    written(
        "our-address-in-the-quoted-local-part",
        b' "alice@example.com"@remote.test',
        "The last unquoted @ makes it theirs, but some readers show the address in the quotes.",
        covers="quoted-local-part unparsable-from",
        why="unparsable-author",
    ),
    written(
        "author-with-spaces-around-dots",
        b" alice . archer @ example (the office) . com",
        "Obsolete syntax that readers put together differently.",
        covers="obsolete-syntax unparsable-from",
        why="unparsable-author",
        note="Legal by RFC 5322, 4.4: to sign it would not be wrong.",
    ),
    written(
        "author-with-a-source-route",
        b" Alice <@relay.remote.test,@mx.partner.example:alice@example.com>",
        "Obsolete syntax: the mailbox is after the colon.",
        covers="obsolete-syntax",
    ),
    written(
        "author-at-an-unlisted-subdomain",
        b" printer@sub.example.com",
        "A key of the parent must not sign for a subdomain that nobody listed.",
        covers="subdomain look-alike",
        why="author-not-ours",
    ),
    written(
        "author-at-a-look-alike-suffix",
        b" alice@evilexample.com",
        "A comparison by suffix takes this for ours.",
        covers="look-alike",
        why="author-not-ours",
    ),
    written(
        "author-at-the-bare-corp-domain",
        b" alice@corp.example.com",
        "'.corp.example.com' means its subdomains, not itself.",
        covers="subdomain",
        why="author-not-ours",
    ),
    written(
        "author-at-an-address-literal",
        b" scanner@[192.0.2.10]",
        "A device that knows no name; there is no key for an address.",
        covers="address-literal",
        why="author-not-ours",
    ),
    written(
        "author-name-with-right-to-left-override",
        b" =?UTF-8?B?4oCubW9jLmVscG1heGVAb2Vj?= <alice@example.com>",
        "The shown name runs backwards; terminals and logs must survive it.",
        covers="right-to-left encoded-word",
    ),
    written(
        "author-name-in-raw-latin-1",
        b" J\xfcrgen M\xfcller <juergen@example.com>",
        "Octets that are no UTF-8 must be signed as they are, not dropped.",
        covers="eight-bit-header",
    ),
)

_INTERNATIONAL = (
    written(
        "author-at-an-a-label-domain",
        b" Laden <laden@xn--bcher-kva.example>",
        "The A-label of an international domain finds its key.",
        covers="idn-author",
    ),
    _international(
        "author-at-a-u-label-domain",
        " Laden <laden@bücher.example>".encode(),
        "The U-label is the same domain; d= must be written as A-label.",
    ),
    _international(
        "author-with-international-local-part",
        " Jürgen <jürgen@example.com>".encode(),
        "An i= with the raw local part would be unreadable to old verifiers.",
    ),
    _international(
        "author-at-a-decomposed-u-label",
        " Laden <laden@bu\N{COMBINING DIAERESIS}cher.example>".encode(),
        "Some systems write ü as two characters; it is the same domain (UTS 46).",
    ),
    _international(
        "author-with-a-cyrillic-look-alike",
        " Alice <alice@ex\N{CYRILLIC SMALL LETTER A}mple.com>".encode(),
        "Looks like us in every font and is another domain.",
        why="author-not-ours",
    ),
)

CASES = (*_FIELDS, *_SPELLINGS, *_INTERNATIONAL)
