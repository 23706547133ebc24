"""The tables of the archive, in SQLAlchemy Core, the same on SQLite, PostgreSQL and MariaDB.

Facts: `message`, `header_section`.  Dictionaries of what many messages share: `address`, `domain`,
`circumstance`, `route`, `signing_form`, `verdict`, `retention`; `dictionary_epoch` counts how often
they were emptied.  `header_dictionary`: what header sections have in common.  Indexes that are
tables on SQLite and MariaDB: `participant`, `participant_domain`, `header_term`; PostgreSQL, where
a row of such a table costs a hundred octets, has arrays of terms with GIN instead (`message_terms`,
`header_section_terms`; `postings` says what goes in, `role_set` what may be found).  What became of
messages: `delivery`, `delivery_waiting`, `forwarded`, found by `delivery_state`, `delivery_address`
and `waiting_address`.  The spool as loaded: `segment`, `set_aside`, `repeated`.  Evidence: `seal`,
`stamp`.  What was taken out, and what must not be: `tombstone`, `redaction`, `hold`, `hold_member`.

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
    column,
    table,
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

# delivery_state.state: what a delivery is looked up by.  What most messages are (queued, delivered)
# finds nothing, and has no rows.
REDIRECTED = "redirected"  # delivered, or tried, under another address than the recipient's
DELIVERY_STATES = (
    "deferred",
    "bounced",
    "expired",
    "held",
    "deleted",
    "refused",
    "unknown",
    REDIRECTED,
)
# delivery.kinship: whose facts they are, the message's or those of one that was made from it.
OWN, REQUEUED, FORWARDED, NOTIFICATION = 0, 1, 2, 3

_WITHOUT_ARRAYS: Any = ("sqlite", "mysql", "mariadb")

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


_TEXT = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
_OCTETS = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_HASH = LargeBinary(16).with_variant(mysql.BINARY(16), "mysql", "mariadb")
_LARGE = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
_DIGEST = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
_SALTS = LargeBinary(48).with_variant(mysql.VARBINARY(48), "mysql", "mariadb")
_CLIENT = LargeBinary(17).with_variant(mysql.VARBINARY(17), "mysql", "mariadb")
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


# PostgreSQL only: a table for each month, made by the function carbonseal_partition.
_BY_MONTH: dict[str, Any] = {"postgresql_partition_by": "RANGE (record_id)"}


domain = Table(
    "domain",
    metadata,
    _key("domain_id", BigInteger, "first 8 octets of SHA-256 of the name"),
    _must("name", _TEXT, "A-label, lower case, or an address literal"),
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
        _TEXT,
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
    _must("relay", _TEXT, "name of the relay that sealed"),
    _must("config_version", _TEXT, "configuration in force"),
    _must("listener", _TEXT, "{daemon_name} of the smtpd service"),
    _may("login_method", _TEXT, "SASL mechanism"),
    _may("tls", _TEXT, "TLS version, cipher, bits of the client's connection as JSON"),
    _must("origin_kind", _TEXT, "how local origin was proven"),
    _must("origin_about", _TEXT, "by what; {login} or {client} where the message row says it"),
    _must("reverse_path_place", SmallInteger, "0 inside, 1 outside, 2 unknown"),
    _must("reverse_path_why", _TEXT, "code of the reason for that place"),
    _may("body_canonicalization", _TEXT, "canonicalization of the body hash"),
    _may("retention_id", BigInteger, "retention class of the stamp; null: none"),
    comment="what many messages have in common",
)

route = Table(
    "route",
    metadata,
    _key("route_id", BigInteger, "first 8 octets of SHA-256 of the other columns"),
    _must("place", SmallInteger, "0 inside, 1 outside, 2 unknown"),
    _must("why", _TEXT, "code of the reason for that place"),
    _may("mailer", _TEXT, "{rcpt_mailer}: the transport Postfix would use"),
    _may("host", _TEXT, "{rcpt_host}: its next hop"),
    comment="where recipients were found to be, and why",
)

signing_form = Table(
    "signing_form",
    metadata,
    _key("form_id", BigInteger, "first 8 octets of SHA-256 of the other columns"),
    _must("sdid", _TEXT, "signing domain (d=)"),
    _must("selector", _TEXT, "selector (s=)"),
    _must("algorithm", _TEXT, "a="),
    _must("canonicalization", _TEXT, "c="),
    _must("fields", _TEXT, "signed header fields (h=)"),
    comment="what many signatures have in common",
)

verdict = Table(
    "verdict",
    metadata,
    _key("verdict_id", BigInteger, "first 8 octets of SHA-256 of the text"),
    _must("reasons", _TEXT, "reasons as JSON; {name} where the message row says about what"),
    comment="reasons of all decisions, as many messages have them in common",
)

retention = Table(
    "retention",
    metadata,
    _key("retention_id", BigInteger, "first 8 octets of SHA-256 of the other columns"),
    _must("name", _TEXT, "retention class"),
    _may("keep", BigInteger, "seconds for which the record is kept; null: for ever"),
    _may("headers", BigInteger, "seconds for its header section; null: as long as the record"),
    _may("subject", BigInteger, "seconds for its subject; null: as long as the header section"),
    comment="classes as stamped when records were made; a later setting makes new rows",
)

message = Table(
    "message",
    metadata,
    _record_id(),
    # The wide ones first: PostgreSQL would fill the gaps between them.
    _must("recorded_at", BigInteger, "when it was sealed; microseconds UTC since 1970"),
    _must("circumstance_id", BigInteger, "relay, listener, configuration, TLS, origin"),
    _must("verdict_id", BigInteger, "reasons of all decisions"),
    _must("segment_id", BigInteger, "spool segment the record came from"),
    _may("reverse_path_id", BigInteger, "address; null for the null reverse-path"),
    _may("author_id", BigInteger, "address of the first author"),
    _may("message_id_hash", BigInteger, "by which Message-ID is found"),
    _may("login_hash", BigInteger, "by which the login is found, without regard to case"),
    _must("size", BigInteger, "octets of the message"),
    _must("position", Integer, "its place among the records of that segment, from 0"),
    _must("author_count", Integer, "mailboxes in From"),
    _must("copy_count", SmallInteger, "archive recipients added"),
    _must("crossing", SmallInteger, "0 internal, 1 outbound, 2 inbound, 3 transit"),
    _must("disposition", SmallInteger, "0 accept, 1 tempfail, 2 reject"),
    _must("is_signed", Boolean, "at least one signature was made"),
    _must("archive_addressed", Boolean, "the sender had addressed the archive already"),
    _must("queue_id", _INDEXED, "Postfix queue id"),
    _may(
        "client_address", _CLIENT, "4 and an IPv4 address, or 6 and an IPv6 address, of the client"
    ),
    _must("client_name", _TEXT, "client's host name; its last @ is the domain of the reverse-path"),
    _may("helo", _TEXT, "argument of HELO; null: the client's host name, []: [127.0.0.1]"),
    _may("login", _TEXT, "SASL login"),
    _may("reverse_path_spelling", _OCTETS, "where it differs from the dictionary"),
    _may("reverse_path_raw", _OCTETS, "argument of MAIL FROM unless <address>"),
    _may("reverse_path_resolved", _OCTETS, "{mail_addr}; empty: the dictionary's; null: not given"),
    _may("reverse_path_esmtp", _TEXT, "ESMTP parameters; [ begins JSON, = SIZE; null: none"),
    _may(
        "reverse_path_about",
        _TEXT,
        "what the reason for its place is about, unless the address",
    ),
    _may("author_spelling", _OCTETS, "where it differs from the dictionary"),
    _may(
        "body_hash",
        LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb"),
        "SHA-256 of the canonical body (RFC 6376 bh=)",
    ),
    _must("numbers", _OCTETS, "sizes, port and number of header fields; see packed"),
    _must("recipients", _OCTETS, "envelope recipients, then archive recipients; see packed"),
    _may("signatures", _OCTETS, "DKIM signatures made, in order; see packed; null: none"),
    _may(
        "bcc_maps",
        _TEXT,
        "what the classic BCC maps would have done, as JSON; null: not asked",
    ),
    _may("salt", _HASH, "of the evidence for all but the header section; null: unsalted, redacted"),
    _may("verbatim", _OCTETS, "the record itself where these columns cannot tell it exactly"),
    # Room for what other relays load later between what is there; the migration says more.
    Index("message_by_queue_id", "queue_id", postgresql_with={"fillfactor": 66}),
    Index("message_by_message_id", "message_id_hash"),
    Index("message_by_client", "client_address", "record_id"),
    # PostgreSQL has these three as terms.
    # On SQLite without the mail that nobody logged in for, which is most of it.
    Index(
        "message_by_login",
        "login_hash",
        "record_id",
        sqlite_where=column("login_hash").is_not(None),
    ).ddl_if(dialect=_WITHOUT_ARRAYS),
    # Each has few values: one index in place of two is asked for each pair of them.
    Index("message_by_crossing", "crossing", "is_signed", "record_id").ddl_if(
        dialect=_WITHOUT_ARRAYS
    ),
    comment="one row per sealed message",
    **_BY_MONTH,
)

header_section = Table(
    "header_section",
    metadata,
    _record_id(),
    _must("has_subject", Boolean, "its Subject says something"),
    # 16 octets; 48 once the subject has gone: salt of the other fields, commitment of the subject.
    _may("salt", _OCTETS, "of its evidence, from which message.salt was derived; null: unsalted"),
    _must("fields", _OCTETS, "header fields in order, exact; see header_store"),
    comment="a table of its own, since it may have to go earlier than the envelope",
    **_BY_MONTH,
)

# These are PostgreSQL's only; the other engines have the three tables below instead.
message_terms = table(
    "message", column("record_id", RecordId()), column("terms", postgresql.ARRAY(BigInteger()))
)
header_section_terms = table(
    "header_section",
    column("record_id", RecordId()),
    column("terms", postgresql.ARRAY(BigInteger())),
)
array_metadata = MetaData()

role_set = Table(
    "role_set",
    array_metadata,
    _key("holder_id", BigInteger, "domain; 0: an address of any domain"),
    _key("roles", SmallInteger, "as in the terms; with holder 0, 0: any set of any holder"),
    comment="sets of roles that somebody held in one record; searches ask for no others",
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

header_term = Table(
    "header_term",
    metadata,
    _key("term_id", BigInteger, "word of the subject, or a field's value; see terms"),
    _record_id(),
    comment="index of subject words and of indexed header fields",
    sqlite_with_rowid=False,
)


def _line() -> tuple[Column[Any], Column[Any]]:
    return (
        _key("segment_id", BigInteger, "spool segment the event line came from"),
        _key("position", Integer, "its place among the lines of that segment, from 0"),
    )


def _told() -> tuple[Column[Any], ...]:
    return (
        _may("removed_at", BigInteger, "when it left the queue; microseconds UTC; null: not told"),
        _may("salt", _HASH, "of the line's evidence; null: unsalted, redacted"),
        _must("facts", _OCTETS, "what the log said, addresses by their ids; see delivery_facts"),
    )


delivery = Table(
    "delivery",
    metadata,
    _record_id(),
    *_line(),
    *_told(),
    _must("kinship", SmallInteger, "0 the message's, of one 1 requeued 2 forwarded 3 notifying"),
    _may("queue_id", _TEXT, "Postfix queue id; null: the message's"),
    _may("redaction", _TEXT, "audit event, salts left, commitments of facts gone; as JSON"),
    comment="event lines: what the mail log said became of a message",
    sqlite_with_rowid=False,
    **_BY_MONTH,
)

delivery_waiting = Table(
    "delivery_waiting",
    metadata,
    *_line(),
    *_told(),
    _must("at", BigInteger, "when the first fact was logged; microseconds UTC since 1970"),
    _must("relay", _INDEXED, "relay whose log it was"),
    _must("queue_id", _INDEXED, "Postfix queue id"),
    _may("redaction", _TEXT, "audit event, salts left, commitments of facts gone; as JSON"),
    Index("delivery_waiting_by_queue_id", "queue_id"),
    Index("delivery_waiting_by_time", "at"),
    comment="event lines whose record has not come, or never will",
)

waiting_address = Table(
    "waiting_address",
    metadata,
    _key("address_id", BigInteger, "who"),
    *_line(),
    comment="index of addresses in event lines that wait",
    sqlite_with_rowid=False,
)

delivery_state = Table(
    "delivery_state",
    metadata,
    _key("state", SmallInteger, "place in schema.DELIVERY_STATES"),
    _record_id(),
    Index("delivery_state_by_record", "record_id"),
    comment="index of what happened to messages; what most are has no rows",
    sqlite_with_rowid=False,
)

delivery_address = Table(
    "delivery_address",
    metadata,
    _key("address_id", BigInteger, "who"),
    _record_id(),
    Index("delivery_address_by_record", "record_id"),
    comment="index of addresses that only the mail log names, as what an alias became",
    sqlite_with_rowid=False,
)

forwarded = Table(
    "forwarded",
    metadata,
    _key("relay", _INDEXED, "relay whose queue it is"),
    _key("queue_id", _INDEXED, "queue id of a message that Postfix made from another"),
    _record_id(),
    _must("at", BigInteger, "when that was logged; microseconds UTC since 1970"),
    _must("kinship", SmallInteger, "as in delivery: how it was made"),
    Index("forwarded_by_record", "record_id"),
    comment="queue ids of what was forwarded or requeued, and of notifications, by record",
)

segment = Table(
    "segment",
    metadata,
    _key("segment_id", BigInteger, "first 8 octets of SHA-256 of the name"),
    _must("name", _TEXT, "file name in the spool without suffix"),
    _must("relay", _TEXT, "relay whose spool it was"),
    _must("progress", BigInteger, "octets loaded: the next record begins here"),
    _must("lines", Integer, "lines of records in them, those set aside included"),
    _must("records", BigInteger, "records loaded"),
    _must("refused", BigInteger, "lines set aside"),
    _must("is_complete", Boolean, "its footer was seen"),
    comment="spool segments and how far they are loaded; book-keeping, not evidence",
)

set_aside = Table(
    "set_aside",
    metadata,
    _key("segment_id", BigInteger, "segment of the line"),
    _key("segment_offset", BigInteger, "octets before it"),
    _must("position", Integer, "its place among the lines of that segment, from 0"),
    _must("why", _TEXT, "what was wrong with it"),
    comment="spool lines that could not be loaded; the lines are in the spool's set-aside/",
)

repeated = Table(
    "repeated",
    metadata,
    _key("segment_id", BigInteger, "segment of the line"),
    _key("position", Integer, "its place among the lines of that segment, from 0"),
    _must("record_id", RecordId(), "the record that another line had brought before"),
    comment="lines whose record was there already, from another line",
)

seal = Table(
    "seal",
    metadata,
    _key("relay", _INDEXED, "relay that sealed the segment"),
    _key("number", BigInteger, "of the relay's sealed segments, from 1 without a gap"),
    _must("segment_id", BigInteger, "the segment"),
    _must("first_record_id", RecordId(), "no record of the segment is older"),
    _must("last_record_id", RecordId(), "none is newer"),
    _must("entry", _TEXT, "what was signed: canonical JSON; see evidence.seal"),
    _must("signature", _OCTETS, "Ed25519 of the relay's evidence key over the entry"),
    _must("leaves", _LARGE, "evidence of each line in order, 64 octets each; see evidence.leaf"),
    Index("seal_by_segment", "segment_id"),
    Index("seal_by_time", "last_record_id"),
    comment="sealed segments, chained per relay; rows are only ever added",
)

stamp = Table(
    "stamp",
    metadata,
    _key("relay", _INDEXED, "relay"),
    _key("number", BigInteger, "seal whose entry was stamped"),
    _must("token", _OCTETS, "RFC 3161 time-stamp token"),
    comment="time stamps of others; rows are only ever added",
)

header_dictionary = Table(
    "header_dictionary",
    metadata,
    _key("dictionary_id", BigInteger, "first 4 octets of SHA-256 of the content"),
    _must("made_at", BigInteger, "microseconds UTC since 1970"),
    _must("content", _OCTETS, "zstd dictionary; holds nothing of anybody, see header_learning"),
    comment="what header sections were stored with; rows are only ever added",
)

dictionary_epoch = Table(
    "dictionary_epoch",
    metadata,
    _key("epoch_id", SmallInteger, "1: there is one row"),
    _must("epoch", BigInteger, "how often rows were taken out of dictionaries or emptied"),
    comment="tells writers when to forget what they remember of dictionaries",
)

tombstone = Table(
    "tombstone",
    metadata,
    _key("segment_id", BigInteger, "segment they came from"),
    _key("event", BigInteger, "number of the audit event that took the records out"),
    _key("part", SmallInteger, "0 record, 1 header section, 2 subject"),
    _must("positions", _LARGE, "their places in the segment, as compressed bits"),
    comment="what retention took out, so that evidence can tell it from loss",
)

redaction = Table(
    "redaction",
    metadata,
    _record_id(),
    _must("event", BigInteger, "number of the audit event"),
    _must("evidence", _TEXT, "salts of the parts left, commitments of those gone, as JSON"),
    comment="records from which a person was erased",
)

hold = Table(
    "hold",
    metadata,
    _key("hold_id", BigInteger, "random"),
    _must("name", _INDEXED, "as people call it"),
    _must("reason", _TEXT, "case, or why"),
    _must("query", _TEXT, "what it holds, as JSON of a Search"),
    _must("is_live", Boolean, "records that come later are held as well"),
    _must("set_at", BigInteger, "microseconds UTC since 1970"),
    _must("set_by", _TEXT, "who"),
    _may("released_at", BigInteger, "null: in force"),
    _may("released_by", _TEXT, "who"),
    UniqueConstraint("name", name="hold_by_name"),
    comment="legal holds",
)

hold_member = Table(
    "hold_member",
    metadata,
    _key("hold_id", BigInteger, "hold"),
    _record_id(),
    Index("hold_member_by_record", "record_id"),
    comment="records that a hold was found to cover",
    sqlite_with_rowid=False,
)

# The audit has a place of its own where the archive is an SQLite file (see `audit`): officers may
# add to it and may not write to the archive.
audit_metadata = MetaData()

audit = Table(
    "audit",
    audit_metadata,
    _key("number", BigInteger, "from 1 without a gap"),
    _must("at", BigInteger, "microseconds UTC since 1970"),
    _must("actor", _TEXT, "who"),
    _must("action", _TEXT, "search, show, trace, stats, export, hold, release, retain, erase, ..."),
    _must("reason", _TEXT, "case, or why; empty where none is demanded"),
    _must("detail", _TEXT, "query, counts and what else belongs to it, as JSON"),
    _must("previous", _DIGEST, "digest of the event before"),
    _must("digest", _DIGEST, "SHA-256 over all of the above; see audit"),
    comment="who asked for, saw, exported, held and deleted what; rows are only ever added",
)
