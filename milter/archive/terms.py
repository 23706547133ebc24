"""What the archive looks things up by: identifiers, hashes, words, packed addresses.

Promises: every function is pure and gives the same answer on every machine and in every version,
because its answers are stored.  Whatever is indexed is short, however long its source was.  Two
spellings that people call the same word or the same mailbox give the same term.

Raises: ValueError where text is no record id.

Does not: know SQL, or read header fields.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import re
import unicodedata
from collections.abc import Iterator
from hashlib import sha256

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Ten bits at a time: a page of results unpacks hundreds of record ids.
_PAIRS = tuple(high + low for high in CROCKFORD for low in CROCKFORD)
_SHIFTS = range(120, -1, -10)
RECORD_ID_LENGTH = 26
MAX_WORDS = 200  # of one subject; more is no subject
_MAX_WORD = 64
TO_BASE32 = str.maketrans(CROCKFORD + CROCKFORD.lower(), "0123456789ABCDEFGHIJKLMNOPQRSTUV" * 2)
_RECORD_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII | re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_BRACKETED = re.compile(r"<([^<>]+)>")
_DOTLESS_I = 0x131
_MOST_PLAIN = 4096  # characters remembered
_QUOTING = re.compile(r'\\(.)|"', re.DOTALL)
# What a local part can hold in quotes only (RFC 5322, section 3.2.3: atext and dots need none).
_NEEDS_QUOTES = re.compile(r'[\x00-\x20\x7f()<>\[\]:;@\\,"]|^\Z')
# Lone surrogates and NUL: what no database column of type text may hold.
_BEFORE_IPV4 = bytes(10) + b"\xff\xff" + bytes(4)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_record_id(value: object) -> bool:
    """Whether it is the text of a ULID."""
    return isinstance(value, str) and _RECORD_ID.fullmatch(value) is not None


@functools.lru_cache(maxsize=1024)
def pack_record_id(text: str) -> bytes:
    """The 16 octets of a ULID; their order is the order of time.

    Raises: ValueError.
    """
    if not _RECORD_ID.fullmatch(text):
        raise ValueError(f"{text!r} is no record id (26 characters)")
    return int(text.translate(TO_BASE32), 32).to_bytes(16, "big")


@functools.lru_cache(maxsize=1024)
def unpack_record_id(octets: bytes) -> str:
    """The text of a ULID."""
    value = int.from_bytes(octets, "big")
    return "".join([_PAIRS[(value >> shift) & 0x3FF] for shift in _SHIFTS])


def first_record_id(milliseconds: int) -> str:
    """The smallest record id of that millisecond since 1970: a bound for searches by time."""
    bounded = min(max(milliseconds, 0), (1 << 48) - 1)
    return unpack_record_id((bounded << 80).to_bytes(16, "big"))


def millisecond(record_id: str) -> int:
    """When a record was made: milliseconds since 1970.  Raises: ValueError."""
    return int.from_bytes(pack_record_id(record_id)[:6], "big")


def storable(text: str) -> str:
    """Text that every database takes: NUL becomes U+2400, lone surrogates become U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub(lambda found: "\u2400" if found[0] == "\0" else "\ufffd", text)


def octets(text: str) -> bytes:
    """The octets behind lossless text.  Text that never was octets is hashed all the same."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def term(text: str) -> int:
    """A 64-bit identifier made from the text itself: domains, segments, rows of dictionaries.

    Two of ten million texts collide with a chance of about 3 in a million.
    """
    return int.from_bytes(sha256(octets(text)).digest()[:8], "big", signed=True)


def found_by(text: str) -> int:
    """48 bits by which text is looked up that is itself kept elsewhere: words, Message-IDs, logins.

    Whoever looks for one of ten million texts finds another one's records as well with a chance of
    4 in a hundred million.  SQLite keeps 64 bits in eight octets and these in six.
    """
    return int.from_bytes(sha256(octets(text)).digest()[:6], "big", signed=True)


@functools.lru_cache(maxsize=4096)
def mailbox(address: str) -> str:
    """The form under which an address is looked up: local part without regard to case.

    Quotes that need not be there are left out: `"bob"@x` and `bob@x` are one mailbox (RFC 5321,
    section 4.1.2), and whoever writes quotes must not escape a search.
    """
    local_part, at, domain = address.rpartition("@")
    if '"' in local_part or "\\" in local_part:
        local_part = _plainly_quoted(local_part)
    return f"{local_part.lower()}@{storable(domain)}" if at else address.lower()


def _plainly_quoted(local_part: str) -> str:
    """The local part without quotes, or with those it needs."""
    content = _QUOTING.sub(r"\1", local_part)
    if not _NEEDS_QUOTES.search(content):
        return content
    escaped = content.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def mailbox_hash(address: str) -> bytes:
    """16 octets by which `mailbox(address)` is found; forgotten when a person is erased."""
    return sha256(octets(address)).digest()[:16]


def without_extension(address: str) -> str:
    """`bob@x` for `bob+tag@x`; the address itself when it has no extension."""
    if "+" not in address:
        return address
    local_part, _, domain = address.rpartition("@")
    base, plus, _ = local_part.partition("+")
    return f"{base}@{domain}" if plus and base and not base.startswith('"') else address


@functools.lru_cache(maxsize=4096)
def parent_domains(domain: str) -> tuple[str, ...]:
    """`b.c.example` and `c.example` for `a.b.c.example`; a literal has no parents.

    Top-level domains are left out: they would be a third of the index, and nobody may ask for all
    of one.
    """
    if domain.startswith("["):
        return ()
    labels = domain.split(".")
    return tuple(
        ".".join(labels[start:]) for start in range(max(1, len(labels) - 9), len(labels) - 1)
    )


@functools.lru_cache(maxsize=8192)
def word_term(word: str) -> int:
    """By which a word is found; subjects use the same ones over and over."""
    return found_by(word)


def field_terms(name: str, value: str) -> list[int]:
    """By which a header field is found: each of its `field_texts`."""
    return [field_term(name, text) for text in field_texts(value)]


def field_texts(value: str) -> list[str]:
    """The value of a header field, and what stands in angle brackets in it."""
    found = [field_text(value)]
    bracketed = _BRACKETED.search(value)
    if bracketed and bracketed[1].strip() != value.strip():
        found.append(field_text(bracketed[1]))
    return found


def field_text(value: str) -> str:
    """A value without regard to case and white space."""
    return " ".join(value.casefold().split())


def field_term(name: str, value: str) -> int:
    """By which a header field with this value is found.

    No word has a colon in it, so this is never the term of a word.
    """
    return found_by(f"{name.lower()}:{field_text(value)}")


def words(text: str) -> list[str]:
    """The distinct words of `text` without regard to case and accents, in order."""
    if text.isascii() and len(text) <= _MAX_WORD:  # no word can be too long, or be too many
        return list(dict.fromkeys(_WORD.findall(text.lower())))
    return list(dict.fromkeys(_words(text)))[:MAX_WORDS]


def sequence(text: str) -> list[str]:
    """The words of `text` like `words`, in order and with those that come again."""
    return list(itertools.islice(_words(text), 4 * MAX_WORDS))


def _words(text: str) -> Iterator[str]:
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).translate(_PLAIN)
    for found in _WORD.findall(text):
        yield found.casefold()[:_MAX_WORD]


class _Plain(dict[int, int | None]):
    """Characters without accents, as `str.translate` asks for them; the last ones remembered."""

    def __missing__(self, code: int) -> int | None:
        if len(self) >= _MOST_PLAIN:
            self.clear()
        # The capital of a dotless i is I, which no machine can tell from that of i.
        plain = ord("i") if code == _DOTLESS_I else code
        self[code] = made = None if unicodedata.combining(chr(code)) else plain
        return made


_PLAIN = _Plain()


def pack_client(address: str) -> bytes | None:
    """Octets that sort like the network: 4 or 6, then the address.  None when it is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if parsed.version == 6:
        if parsed.ipv4_mapped is None:
            return None if parsed.scope_id else b"\6" + parsed.packed
        parsed = parsed.ipv4_mapped
    return b"\4" + parsed.packed


def client_bounds(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[bytes, bytes]:
    """The first and the last packed client of a network."""
    first, last = network.network_address, network.broadcast_address
    if isinstance(first, ipaddress.IPv6Address) and isinstance(last, ipaddress.IPv6Address):
        if first.ipv4_mapped is None or last.ipv4_mapped is None:
            # IPv4 lies between ::ffff:0:0 and ::ffff:ffff:ffff.
            has_ipv4 = first.packed < _BEFORE_IPV4 < last.packed
            return b"\4" if has_ipv4 else b"\6" + first.packed, b"\6" + last.packed
        first, last = first.ipv4_mapped, last.ipv4_mapped
    return b"\4" + first.packed, b"\4" + last.packed


@functools.lru_cache(maxsize=4096)
def unpack_client(packed: bytes) -> str:
    """The textual address."""
    return str(ipaddress.ip_address(packed[1:]))
