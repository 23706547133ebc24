"""The tables of the archive, in SQLAlchemy Core, the same on SQLite, PostgreSQL and MariaDB.

Facts: `message`, `recipient`, `signature`, `header_section`.  Indexes that are tables, so that they
are the same everywhere: `participant`, `participant_domain`, `subject_word`.  Dictionaries of what
many messages share: `address`, `domain`, `circumstance`, `route`, `signing_form`.  Book-keeping:
`segment`, `set_aside`.

Promises: the record id is the only key of a fact.  Its first 48 bits are the time, so each index
(what, record_id) is in order of time, pages are cut by comparing one value (MariaDB finds no index
for a comparison of pairs), and tables can be partitioned by month on it.  Every unique key of a
fact table begins or ends in it; there are no foreign keys, which partitions forbid.  No text that
is indexed is long: it is hashed.  No text column holds NUL or a lone surrogate: what would need
them is kept in octets beside it.  An address stands in the dictionary only; a fact repeats its
spelling where that differs.

Does not: connect, migrate (`database`), or fill rows (`rows`, `loader`).
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

from carbonseal.milter.archive import terms

CROSSINGS = ("internal", "outbound", "inbound", "transit")
DISPOSITIONS = ("accept", "tempfail", "reject")
PLACES = ("inside", "outside", "unknown")

ENVELOPE, COPY = 0, 1  # recipient.kind

# participant.roles
REVERSE_PATH, RECIPIENT, AUTHOR, TO, CC = 1, 2, 4, 8, 16
ANY_ROLE = REVERSE_PATH | RECIPIENT | AUTHOR | TO | CC
# The same roles shifted: held by an address that differs in its extension, or by a subdomain.
INDIRECT = 8

metadata = MetaData()


class RecordId(TypeDecorator[str]):
    """A ULID: text on the inside, 16 octets (PostgreSQL: uuid) in the database."""

    impl = LargeBinary(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type whose order is the order of octets."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.BINARY(16))
        return dialect.type_descriptor(LargeBinary(16))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """To the database."""
        if value is None:
            return None
        packed = terms.pack_record_id(value)
        return uuid.UUID(bytes=packed) if dialect.name == "postgresql" else packed

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """From the database."""
        if value is None:
            return None
        return terms.unpack_record_id(value.bytes if isinstance(value, uuid.UUID) else value)


_LONG_TEXT = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
_OCTETS = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_HASH = LargeBinary(16).with_variant(mysql.BINARY(16), "mysql", "mariadb")
# Indexed text is compared octet by octet on every engine.
_INDEXED = (
    String(255)
    .with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), "mysql", "mariadb")
    .with_variant(String(255, collation="C"), "postgresql")
)


def _key(name: str, kind: Any, comment: str) -> Column[Any]:
    return Column(
        name, kind, primary_key=True, autoincrement=False, nullable=False, comment=comment
    )


def _must(name: str, kind: Any, comment: str) -> Column[Any]:
    return Column(name, kind, nullable=False, comment=comment)


def _may(name: str, kind: Any, comment: str) -> Column[Any]:
    return Column(name, kind, nullable=True, comment=comment)


def _record_id() -> Column[Any]:
    return _key("record_id", RecordId(), "ULID made by the milter; in order of time")


domain = Table(
    "domain",
    metadata,
    _key("domain_id", BigInteger, "first 8 octets of SHA-256 of the name"),
    _must("name", _LONG_TEXT, "A-label, lower case, or an address literal"),
    comment="domains seen in addresses and their parent domains",
)

address = Table(
    "address",
    metadata,
    _key("address_id", BigInteger, "random: says nothing about the person once the row is erased"),
    _may("address_hash", _HASH, "SHA-256[:16] of lower-case local part @ domain; null once erased"),
    _may("domain_id", BigInteger, "its domain; null when it is unqualified or unreadable"),
    _may(
        "local_part",
        _LONG_TEXT,
        "lower case; the whole text when there is no domain; null once erased",
    ),
    _may("local_part_raw", _OCTETS, "its octets where local_part cannot hold them"),
    _may("erased_at", BigInteger, "when the person was erased; microseconds UTC"),
    UniqueConstraint("address_hash", name="address_by_hash"),
    comment="address dictionary; erasing a person empties one row",
)

circumstance = Table(
    "circumstance",
    metadata,
    _key("circumstance_id", BigInteger, "first 8 octets of SHA-256 of the other columns"),
    _must("version", SmallInteger, "version of the record format"),
    _must("relay", Text, "name of the relay that sealed"),
    _must("config_version", Text, "configuration in force"),
    _must("listener", Text, "{daemon_name} of the smtpd service"),
    _may("login_method", Text, "SASL mechanism"),
    _may("tls", Text, "TLS version, cipher, bits of the client's connection as JSON"),
    _must("origin_kind", Text, "how local origin was proven"),
    _must("origin_about", Text, "by what; {login} or {client} where the message row says it"),
    _must("reverse_path_place", SmallInteger, "0 inside, 1 outside, 2 unknown"),
    _must("reverse_path_why", Text, "code of the reason for that place"),
    _may("body_canonicalization", Text, "canonicalization of the body hash"),
    comment="what many messages have in common",
)

route = Table(
    "route",
    metadata,
    _key("route_id", BigInteger, "first 8 octets of SHA-256 of the other columns"),
    _must("place", SmallInteger, "0 inside, 1 outside, 2 unknown"),
    _must("why", Text, "code of the reason for that place"),
    _may("mailer", Text, "{rcpt_mailer}: the transport Postfix would use"),
    _may("host", _LONG_TEXT, "{rcpt_host}: its next hop"),
    comment="where recipients were found to be, and why",
)

signing_form = Table(
    "signing_form",
    metadata,
    _key("form_id", BigInteger, "first 8 octets of SHA-256 of the other columns"),
    _must("sdid", Text, "signing domain (d=)"),
    _must("selector", Text, "selector (s=)"),
    _must("algorithm", Text, "a="),
    _must("canonicalization", Text, "c="),
    _must("fields", _LONG_TEXT, "signed header fields (h=)"),
    comment="what many signatures have in common",
)

message = Table(
    "message",
    metadata,
    _record_id(),
    _must("recorded_at", BigInteger, "when it was sealed; microseconds UTC since 1970"),
    _must("circumstance_id", BigInteger, "relay, listener, configuration, TLS, origin"),
    _must("segment_id", BigInteger, "spool segment the record came from"),
    _must("segment_offset", BigInteger, "octets before it in that segment"),
    _must("queue_id", _INDEXED, "Postfix queue id"),
    _may("client_address", _HASH, "client's IP address, IPv4 as ::ffff:a.b.c.d"),
    _must("client_port", Integer, "client's port"),
    _must("client_name", Text, "client's host name"),
    _must("helo", _LONG_TEXT, "argument of HELO or EHLO"),
    _may("login", Text, "SASL login"),
    _may("login_hash", BigInteger, "by which the login is found, without regard to case"),
    _may("reverse_path_id", BigInteger, "address; null for the null reverse-path"),
    _may("reverse_path_spelling", _OCTETS, "where it differs from the dictionary"),
    _may("reverse_path_raw", _OCTETS, "argument of MAIL FROM unless <address>"),
    _may("reverse_path_resolved", _OCTETS, "{mail_addr}; empty: the dictionary's; null: not given"),
    _may("reverse_path_esmtp", _LONG_TEXT, "ESMTP parameters as JSON; null: none"),
    _may(
        "reverse_path_about",
        _LONG_TEXT,
        "what the reason for its place is about, unless the address",
    ),
    _must("crossing", SmallInteger, "0 internal, 1 outbound, 2 inbound, 3 transit"),
    _must("disposition", SmallInteger, "0 accept, 1 tempfail, 2 reject"),
    _must("is_signed", Boolean, "at least one signature was made"),
    _must("archive_addressed", Boolean, "the sender had addressed the archive already"),
    _must("author_count", Integer, "mailboxes in From"),
    _may("author_id", BigInteger, "address of the first author"),
    _may("author_spelling", _OCTETS, "where it differs from the dictionary"),
    _may("message_id_hash", BigInteger, "by which Message-ID is found"),
    _may("date", BigInteger, "Date field; seconds UTC since 1970"),
    _must("size", BigInteger, "octets of the message"),
    _must("header_size", BigInteger, "octets of the header section"),
    _must("header_count", Integer, "header fields"),
    _must("body_size", BigInteger, "octets of the body"),
    _may(
        "body_hash",
        LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb"),
        "SHA-256 of the canonical body (RFC 6376 bh=)",
    ),
    _must("reasons", _LONG_TEXT, "reasons of all decisions as JSON"),
    _may("verbatim", _OCTETS, "the record itself where these columns cannot tell it exactly"),
    Index("message_by_queue_id", "queue_id", "record_id"),
    Index("message_by_message_id", "message_id_hash", "record_id"),
    Index("message_by_client", "client_address", "record_id"),
    Index("message_by_login", "login_hash", "record_id"),
    Index("message_by_crossing", "crossing", "record_id"),
    Index("message_by_signed", "is_signed", "record_id"),
    comment="one row per sealed message",
)

recipient = Table(
    "recipient",
    metadata,
    _record_id(),
    _key("position", Integer, "order: envelope recipients, then archive recipients"),
    _must("kind", SmallInteger, "0 envelope, 1 archive copy"),
    _may("address_id", BigInteger, "address as resolved; null: none"),
    _may("spelling", _OCTETS, "where it differs from the dictionary"),
    _may("raw", _OCTETS, "argument of RCPT TO unless <address>"),
    _may("resolved", _OCTETS, "{rcpt_addr}; empty: the dictionary's; null: not given"),
    _may("esmtp", _LONG_TEXT, "ESMTP parameters (NOTIFY, ORCPT) as JSON; null: none"),
    _may("route_id", BigInteger, "place, reason, transport, next hop"),
    _may("about", _LONG_TEXT, "what the reason for its place is about, unless the address"),
    comment="envelope and archive recipients",
    sqlite_with_rowid=False,
)

signature = Table(
    "signature",
    metadata,
    _record_id(),
    _key("position", SmallInteger, "order of signing"),
    _must("form_id", BigInteger, "SDID, selector, algorithm, fields"),
    _may("auid", Text, "i= unless @ and the SDID"),
    _must("signed_at", BigInteger, "t=; seconds UTC since 1970"),
    _may("expires_at", BigInteger, "x=; seconds UTC since 1970"),
    comment="DKIM signatures made",
    sqlite_with_rowid=False,
)

header_section = Table(
    "header_section",
    metadata,
    _record_id(),
    _may("message_id", _LONG_TEXT, "Message-ID without angle brackets"),
    _may("subject", _LONG_TEXT, "Subject decoded for people"),
    _must("fields", _OCTETS, "header fields in order, exact; see header_store"),
    comment="a table of its own, since it may have to go earlier than the envelope",
)

participant = Table(
    "participant",
    metadata,
    _key("address_id", BigInteger, "who"),
    _record_id(),
    _must(
        "roles",
        SmallInteger,
        "1 reverse-path, 2 recipient, 4 author, 8 To, 16 Cc; <<8: with an extension",
    ),
    comment="index of addresses",
    sqlite_with_rowid=False,
)

participant_domain = Table(
    "participant_domain",
    metadata,
    _key("domain_id", BigInteger, "domain or parent domain"),
    _record_id(),
    _must("roles", SmallInteger, "as in participant; <<8: held by a subdomain"),
    comment="index of domains",
    sqlite_with_rowid=False,
)

subject_word = Table(
    "subject_word",
    metadata,
    _key("word_id", BigInteger, "first 8 octets of SHA-256 of the word without case and accents"),
    _record_id(),
    comment="index of subject words",
    sqlite_with_rowid=False,
)

segment = Table(
    "segment",
    metadata,
    _key("segment_id", BigInteger, "first 8 octets of SHA-256 of the name"),
    _must("name", Text, "file name in the spool without suffix"),
    _must("progress", BigInteger, "octets loaded: the next record begins here"),
    _must("records", BigInteger, "records loaded"),
    _must("refused", BigInteger, "lines set aside"),
    _must("is_complete", Boolean, "its footer was seen"),
    _may(
        "merkle_root",
        LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb"),
        "root over its records, from the footer",
    ),
    comment="spool segments and how far they are loaded",
)

set_aside = Table(
    "set_aside",
    metadata,
    _key("segment_id", BigInteger, "segment of the line"),
    _key("segment_offset", BigInteger, "octets before it"),
    _must("why", _LONG_TEXT, "what was wrong with it"),
    comment="spool lines that could not be loaded; the lines are in the spool's set-aside/",
)
