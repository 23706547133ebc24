"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0001"
down_revision = None

# Written out and never changed: `schema` describes the newest version, this the first.
MYSQL = ("mysql", "mariadb")
RECORD_ID = (
    sa.LargeBinary(16)
    .with_variant(mysql.BINARY(16), *MYSQL)
    .with_variant(postgresql.UUID(), "postgresql")
)
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), *MYSQL)
OCTETS = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), *MYSQL)
HASH = sa.LargeBinary(16).with_variant(mysql.BINARY(16), *MYSQL)
SHA256 = sa.LargeBinary(32).with_variant(mysql.BINARY(32), *MYSQL)
INDEXED = (
    sa.String(255)
    .with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), *MYSQL)
    .with_variant(sa.String(255, collation="C"), "postgresql")
)


def key(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False, comment=comment)


def must(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment)


def may(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True, comment=comment)


def upgrade() -> None:
    op.create_table(
        "domain",
        key("domain_id", sa.BigInteger(), "first 8 octets of SHA-256 of the name"),
        must("name", LONG_TEXT, "A-label, lower case, or an address literal"),
        comment="domains seen in addresses and their parent domains",
    )
    op.create_table(
        "address",
        key(
            "address_id",
            sa.BigInteger(),
            "random: says nothing about the person once the row is erased",
        ),
        may(
            "address_hash", HASH, "SHA-256[:16] of lower-case local part @ domain; null once erased"
        ),
        may("domain_id", sa.BigInteger(), "its domain; null when it is unqualified or unreadable"),
        may(
            "local_part",
            LONG_TEXT,
            "lower case; the whole text when there is no domain; null once erased",
        ),
        may("local_part_raw", OCTETS, "its octets where local_part cannot hold them"),
        may("erased_at", sa.BigInteger(), "when the person was erased; microseconds UTC"),
        sa.UniqueConstraint("address_hash", name="address_by_hash"),
        comment="address dictionary; erasing a person empties one row",
    )
    op.create_table(
        "circumstance",
        key("circumstance_id", sa.BigInteger(), "first 8 octets of SHA-256 of the other columns"),
        must("version", sa.SmallInteger(), "version of the record format"),
        must("relay", sa.Text(), "name of the relay that sealed"),
        must("config_version", sa.Text(), "configuration in force"),
        must("listener", sa.Text(), "{daemon_name} of the smtpd service"),
        may("login_method", sa.Text(), "SASL mechanism"),
        may("tls", sa.Text(), "TLS version, cipher, bits of the client's connection as JSON"),
        must("origin_kind", sa.Text(), "how local origin was proven"),
        must(
            "origin_about", sa.Text(), "by what; {login} or {client} where the message row says it"
        ),
        must("reverse_path_place", sa.SmallInteger(), "0 inside, 1 outside, 2 unknown"),
        must("reverse_path_why", sa.Text(), "code of the reason for that place"),
        may("body_canonicalization", sa.Text(), "canonicalization of the body hash"),
        comment="what many messages have in common",
    )
    op.create_table(
        "route",
        key("route_id", sa.BigInteger(), "first 8 octets of SHA-256 of the other columns"),
        must("place", sa.SmallInteger(), "0 inside, 1 outside, 2 unknown"),
        must("why", sa.Text(), "code of the reason for that place"),
        may("mailer", sa.Text(), "{rcpt_mailer}: the transport Postfix would use"),
        may("host", LONG_TEXT, "{rcpt_host}: its next hop"),
        comment="where recipients were found to be, and why",
    )
    op.create_table(
        "signing_form",
        key("form_id", sa.BigInteger(), "first 8 octets of SHA-256 of the other columns"),
        must("sdid", sa.Text(), "signing domain (d=)"),
        must("selector", sa.Text(), "selector (s=)"),
        must("algorithm", sa.Text(), "a="),
        must("canonicalization", sa.Text(), "c="),
        must("fields", LONG_TEXT, "signed header fields (h=)"),
        comment="what many signatures have in common",
    )
    op.create_table(
        "message",
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        must("recorded_at", sa.BigInteger(), "when it was sealed; microseconds UTC since 1970"),
        must("circumstance_id", sa.BigInteger(), "relay, listener, configuration, TLS, origin"),
        must("segment_id", sa.BigInteger(), "spool segment the record came from"),
        must("segment_offset", sa.BigInteger(), "octets before it in that segment"),
        must("queue_id", INDEXED, "Postfix queue id"),
        may("client_address", HASH, "client's IP address, IPv4 as ::ffff:a.b.c.d"),
        must("client_port", sa.Integer(), "client's port"),
        must("client_name", sa.Text(), "client's host name"),
        must("helo", LONG_TEXT, "argument of HELO or EHLO"),
        may("login", sa.Text(), "SASL login"),
        may("login_hash", sa.BigInteger(), "by which the login is found, without regard to case"),
        may("reverse_path_id", sa.BigInteger(), "address; null for the null reverse-path"),
        may("reverse_path_spelling", OCTETS, "where it differs from the dictionary"),
        may("reverse_path_raw", OCTETS, "argument of MAIL FROM unless <address>"),
        may(
            "reverse_path_resolved", OCTETS, "{mail_addr}; empty: the dictionary's; null: not given"
        ),
        may("reverse_path_esmtp", LONG_TEXT, "ESMTP parameters as JSON; null: none"),
        may(
            "reverse_path_about",
            LONG_TEXT,
            "what the reason for its place is about, unless the address",
        ),
        must("crossing", sa.SmallInteger(), "0 internal, 1 outbound, 2 inbound, 3 transit"),
        must("disposition", sa.SmallInteger(), "0 accept, 1 tempfail, 2 reject"),
        must("is_signed", sa.Boolean(), "at least one signature was made"),
        must("archive_addressed", sa.Boolean(), "the sender had addressed the archive already"),
        must("author_count", sa.Integer(), "mailboxes in From"),
        may("author_id", sa.BigInteger(), "address of the first author"),
        may("author_spelling", OCTETS, "where it differs from the dictionary"),
        may("message_id_hash", sa.BigInteger(), "by which Message-ID is found"),
        may("date", sa.BigInteger(), "Date field; seconds UTC since 1970"),
        must("size", sa.BigInteger(), "octets of the message"),
        must("header_size", sa.BigInteger(), "octets of the header section"),
        must("header_count", sa.Integer(), "header fields"),
        must("body_size", sa.BigInteger(), "octets of the body"),
        may("body_hash", SHA256, "SHA-256 of the canonical body (RFC 6376 bh=)"),
        must("reasons", LONG_TEXT, "reasons of all decisions as JSON"),
        may("verbatim", OCTETS, "the record itself where these columns cannot tell it exactly"),
        comment="one row per sealed message",
    )
    op.create_table(
        "recipient",
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        key("position", sa.Integer(), "order: envelope recipients, then archive recipients"),
        must("kind", sa.SmallInteger(), "0 envelope, 1 archive copy"),
        may("address_id", sa.BigInteger(), "address as resolved; null: none"),
        may("spelling", OCTETS, "where it differs from the dictionary"),
        may("raw", OCTETS, "argument of RCPT TO unless <address>"),
        may("resolved", OCTETS, "{rcpt_addr}; empty: the dictionary's; null: not given"),
        may("esmtp", LONG_TEXT, "ESMTP parameters (NOTIFY, ORCPT) as JSON; null: none"),
        may("route_id", sa.BigInteger(), "place, reason, transport, next hop"),
        may("about", LONG_TEXT, "what the reason for its place is about, unless the address"),
        comment="envelope and archive recipients",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "signature",
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        key("position", sa.SmallInteger(), "order of signing"),
        must("form_id", sa.BigInteger(), "SDID, selector, algorithm, fields"),
        may("auid", sa.Text(), "i= unless @ and the SDID"),
        must("signed_at", sa.BigInteger(), "t=; seconds UTC since 1970"),
        may("expires_at", sa.BigInteger(), "x=; seconds UTC since 1970"),
        comment="DKIM signatures made",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "header_section",
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        may("message_id", LONG_TEXT, "Message-ID without angle brackets"),
        may("subject", LONG_TEXT, "Subject decoded for people"),
        must("fields", OCTETS, "header fields in order, exact; see header_store"),
        comment="a table of its own, since it may have to go earlier than the envelope",
    )
    op.create_table(
        "participant",
        key("address_id", sa.BigInteger(), "who"),
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        must(
            "roles",
            sa.SmallInteger(),
            "1 reverse-path, 2 recipient, 4 author, 8 To, 16 Cc; <<8: with an extension",
        ),
        comment="index of addresses",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "participant_domain",
        key("domain_id", sa.BigInteger(), "domain or parent domain"),
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        must("roles", sa.SmallInteger(), "as in participant; <<8: held by a subdomain"),
        comment="index of domains",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "subject_word",
        key(
            "word_id",
            sa.BigInteger(),
            "first 8 octets of SHA-256 of the word without case and accents",
        ),
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        comment="index of subject words",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "segment",
        key("segment_id", sa.BigInteger(), "first 8 octets of SHA-256 of the name"),
        must("name", sa.Text(), "file name in the spool without suffix"),
        must("progress", sa.BigInteger(), "octets loaded: the next record begins here"),
        must("records", sa.BigInteger(), "records loaded"),
        must("refused", sa.BigInteger(), "lines set aside"),
        must("is_complete", sa.Boolean(), "its footer was seen"),
        may("merkle_root", SHA256, "root over its records, from the footer"),
        comment="spool segments and how far they are loaded",
    )
    op.create_table(
        "set_aside",
        key("segment_id", sa.BigInteger(), "segment of the line"),
        key("segment_offset", sa.BigInteger(), "octets before it"),
        must("why", LONG_TEXT, "what was wrong with it"),
        comment="spool lines that could not be loaded; the lines are in the spool's set-aside/",
    )
    op.create_index("message_by_client", "message", ["client_address", "record_id"])
    op.create_index("message_by_crossing", "message", ["crossing", "record_id"])
    op.create_index("message_by_login", "message", ["login_hash", "record_id"])
    op.create_index("message_by_message_id", "message", ["message_id_hash", "record_id"])
    op.create_index("message_by_queue_id", "message", ["queue_id", "record_id"])
    op.create_index("message_by_signed", "message", ["is_signed", "record_id"])
