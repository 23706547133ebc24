"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "archive_4"
down_revision = None

# Written out and never changed: `schema` describes the newest version, this the first.
MYSQL = ("mysql", "mariadb")
RECORD_ID = (
    sa.LargeBinary(16)
    .with_variant(mysql.BINARY(16), *MYSQL)
    .with_variant(postgresql.UUID(), "postgresql")
)
TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), *MYSQL)
OCTETS = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), *MYSQL)
LARGE = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)
HASH = sa.LargeBinary(16).with_variant(mysql.BINARY(16), *MYSQL)
DIGEST = sa.LargeBinary(32).with_variant(mysql.BINARY(32), *MYSQL)
SALTS = sa.LargeBinary(48).with_variant(mysql.VARBINARY(48), *MYSQL)
CLIENT = sa.LargeBinary(17).with_variant(mysql.VARBINARY(17), *MYSQL)
INDEXED = (
    sa.String(255)
    .with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), *MYSQL)
    .with_variant(sa.String(255, collation="C"), "postgresql")
)
# Relays load a segment at a time, each between the records that others have loaded: the pages of
# indexes in order of time have room for those, or each would be split and stay half empty.
ROOM = 66
PARTITIONED: dict[str, Any] = {"postgresql_partition_by": "RANGE (record_id)"}


def key(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False, comment=comment)


def must(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment)


def may(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True, comment=comment)


def upgrade() -> None:
    tables()
    if op.get_bind().dialect.name == "postgresql":
        terms()
    else:
        index_tables()
    if op.get_bind().dialect.name != "sqlite":  # which has it in a file of its own
        audit()


def tables() -> None:
    op.create_table(
        "domain",
        key("domain_id", sa.BigInteger(), "first 8 octets of SHA-256 of the name"),
        must("name", TEXT, "A-label, lower case, or an address literal"),
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
            TEXT,
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
        must("relay", TEXT, "name of the relay that sealed"),
        must("config_version", TEXT, "configuration in force"),
        must("listener", TEXT, "{daemon_name} of the smtpd service"),
        may("login_method", TEXT, "SASL mechanism"),
        may("tls", TEXT, "TLS version, cipher, bits of the client's connection as JSON"),
        must("origin_kind", TEXT, "how local origin was proven"),
        must("origin_about", TEXT, "by what; {login} or {client} where the message row says it"),
        must("reverse_path_place", sa.SmallInteger(), "0 inside, 1 outside, 2 unknown"),
        must("reverse_path_why", TEXT, "code of the reason for that place"),
        may("body_canonicalization", TEXT, "canonicalization of the body hash"),
        may("retention_id", sa.BigInteger(), "retention class of the stamp; null: none"),
        comment="what many messages have in common",
    )
    op.create_table(
        "route",
        key("route_id", sa.BigInteger(), "first 8 octets of SHA-256 of the other columns"),
        must("place", sa.SmallInteger(), "0 inside, 1 outside, 2 unknown"),
        must("why", TEXT, "code of the reason for that place"),
        may("mailer", TEXT, "{rcpt_mailer}: the transport Postfix would use"),
        may("host", TEXT, "{rcpt_host}: its next hop"),
        comment="where recipients were found to be, and why",
    )
    op.create_table(
        "signing_form",
        key("form_id", sa.BigInteger(), "first 8 octets of SHA-256 of the other columns"),
        must("sdid", TEXT, "signing domain (d=)"),
        must("selector", TEXT, "selector (s=)"),
        must("algorithm", TEXT, "a="),
        must("canonicalization", TEXT, "c="),
        must("fields", TEXT, "signed header fields (h=)"),
        comment="what many signatures have in common",
    )
    op.create_table(
        "verdict",
        key("verdict_id", sa.BigInteger(), "first 8 octets of SHA-256 of the text"),
        must("reasons", TEXT, "reasons as JSON; {name} where the message row says about what"),
        comment="reasons of all decisions, as many messages have them in common",
    )
    op.create_table(
        "retention",
        key("retention_id", sa.BigInteger(), "first 8 octets of SHA-256 of the other columns"),
        must("name", TEXT, "retention class"),
        may("keep", sa.BigInteger(), "seconds for which the record is kept; null: for ever"),
        may(
            "headers",
            sa.BigInteger(),
            "seconds for its header section; null: as long as the record",
        ),
        may(
            "subject",
            sa.BigInteger(),
            "seconds for its subject; null: as long as the header section",
        ),
        comment="classes as stamped when records were made; a later setting makes new rows",
    )
    op.create_table(
        "message",
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        must("recorded_at", sa.BigInteger(), "when it was sealed; microseconds UTC since 1970"),
        must("circumstance_id", sa.BigInteger(), "relay, listener, configuration, TLS, origin"),
        must("verdict_id", sa.BigInteger(), "reasons of all decisions"),
        must("segment_id", sa.BigInteger(), "spool segment the record came from"),
        may("reverse_path_id", sa.BigInteger(), "address; null for the null reverse-path"),
        may("author_id", sa.BigInteger(), "address of the first author"),
        may("message_id_hash", sa.BigInteger(), "by which Message-ID is found"),
        may("login_hash", sa.BigInteger(), "by which the login is found, without regard to case"),
        must("size", sa.BigInteger(), "octets of the message"),
        must("position", sa.Integer(), "its place among the records of that segment, from 0"),
        must("author_count", sa.Integer(), "mailboxes in From"),
        must("copy_count", sa.SmallInteger(), "archive recipients added"),
        must("crossing", sa.SmallInteger(), "0 internal, 1 outbound, 2 inbound, 3 transit"),
        must("disposition", sa.SmallInteger(), "0 accept, 1 tempfail, 2 reject"),
        must("is_signed", sa.Boolean(), "at least one signature was made"),
        must("archive_addressed", sa.Boolean(), "the sender had addressed the archive already"),
        must("queue_id", INDEXED, "Postfix queue id"),
        may(
            "client_address",
            CLIENT,
            "4 and an IPv4 address, or 6 and an IPv6 address, of the client",
        ),
        must(
            "client_name", TEXT, "client's host name; its last @ is the domain of the reverse-path"
        ),
        may("helo", TEXT, "argument of HELO; null: the client's host name, []: [127.0.0.1]"),
        may("login", TEXT, "SASL login"),
        may("reverse_path_spelling", OCTETS, "where it differs from the dictionary"),
        may("reverse_path_raw", OCTETS, "argument of MAIL FROM unless <address>"),
        may(
            "reverse_path_resolved", OCTETS, "{mail_addr}; empty: the dictionary's; null: not given"
        ),
        may("reverse_path_esmtp", TEXT, "ESMTP parameters; [ begins JSON, = SIZE; null: none"),
        may(
            "reverse_path_about", TEXT, "what the reason for its place is about, unless the address"
        ),
        may("author_spelling", OCTETS, "where it differs from the dictionary"),
        may("body_hash", DIGEST, "SHA-256 of the canonical body (RFC 6376 bh=)"),
        must("numbers", OCTETS, "sizes, port and number of header fields; see packed"),
        must("recipients", OCTETS, "envelope recipients, then archive recipients; see packed"),
        may("signatures", OCTETS, "DKIM signatures made, in order; see packed; null: none"),
        may(
            "bcc_maps", TEXT, "what the classic BCC maps would have done, as JSON; null: not asked"
        ),
        may(
            "salt", HASH, "of the evidence for all but the header section; null: unsalted, redacted"
        ),
        may("verbatim", OCTETS, "the record itself where these columns cannot tell it exactly"),
        comment="one row per sealed message",
        **PARTITIONED,
    )
    op.create_table(
        "header_section",
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        must("has_subject", sa.Boolean(), "its Subject says something"),
        may("salt", OCTETS, "of its evidence, from which message.salt was derived; null: unsalted"),
        must("fields", OCTETS, "header fields in order, exact; see header_store"),
        comment="a table of its own, since it may have to go earlier than the envelope",
        **PARTITIONED,
    )
    deliveries()
    op.create_table(
        "segment",
        key("segment_id", sa.BigInteger(), "first 8 octets of SHA-256 of the name"),
        must("name", TEXT, "file name in the spool without suffix"),
        must("relay", TEXT, "relay whose spool it was"),
        must("progress", sa.BigInteger(), "octets loaded: the next record begins here"),
        must("lines", sa.Integer(), "lines of records in them, those set aside included"),
        must("records", sa.BigInteger(), "records loaded"),
        must("refused", sa.BigInteger(), "lines set aside"),
        must("is_complete", sa.Boolean(), "its footer was seen"),
        comment="spool segments and how far they are loaded; book-keeping, not evidence",
    )
    op.create_table(
        "set_aside",
        key("segment_id", sa.BigInteger(), "segment of the line"),
        key("segment_offset", sa.BigInteger(), "octets before it"),
        must("position", sa.Integer(), "its place among the lines of that segment, from 0"),
        must("why", TEXT, "what was wrong with it"),
        comment="spool lines that could not be loaded; the lines are in the spool's set-aside/",
    )
    op.create_table(
        "repeated",
        key("segment_id", sa.BigInteger(), "segment of the line"),
        key("position", sa.Integer(), "its place among the lines of that segment, from 0"),
        must("record_id", RECORD_ID, "the record that another line had brought before"),
        comment="lines whose record was there already, from another line",
    )
    op.create_table(
        "seal",
        key("relay", INDEXED, "relay that sealed the segment"),
        key("number", sa.BigInteger(), "of the relay's sealed segments, from 1 without a gap"),
        must("segment_id", sa.BigInteger(), "the segment"),
        must("first_record_id", RECORD_ID, "no record of the segment is older"),
        must("last_record_id", RECORD_ID, "none is newer"),
        must("entry", TEXT, "what was signed: canonical JSON; see evidence.seal"),
        must("signature", OCTETS, "Ed25519 of the relay's evidence key over the entry"),
        must("leaves", LARGE, "evidence of each line in order, 64 octets each; see evidence.leaf"),
        comment="sealed segments, chained per relay; rows are only ever added",
    )
    op.create_table(
        "stamp",
        key("relay", INDEXED, "relay"),
        key("number", sa.BigInteger(), "seal whose entry was stamped"),
        must("token", OCTETS, "RFC 3161 time-stamp token"),
        comment="time stamps of others; rows are only ever added",
    )
    epochs = op.create_table(
        "dictionary_epoch",
        key("epoch_id", sa.SmallInteger(), "1: there is one row"),
        must("epoch", sa.BigInteger(), "how often rows were taken out of dictionaries or emptied"),
        comment="tells writers when to forget what they remember of dictionaries",
    )
    # There from the beginning, so that there is something to lock.
    op.bulk_insert(epochs, [{"epoch_id": 1, "epoch": 0}])
    op.create_table(
        "header_dictionary",
        key("dictionary_id", sa.BigInteger(), "first 4 octets of SHA-256 of the content"),
        must("made_at", sa.BigInteger(), "microseconds UTC since 1970"),
        must("content", OCTETS, "zstd dictionary; holds nothing of anybody, see header_learning"),
        comment="what header sections were stored with; rows are only ever added",
    )
    op.create_table(
        "tombstone",
        key("segment_id", sa.BigInteger(), "segment they came from"),
        key("event", sa.BigInteger(), "number of the audit event that took the records out"),
        key("part", sa.SmallInteger(), "0 record, 1 header section, 2 subject"),
        must("positions", LARGE, "their places in the segment, as compressed bits"),
        comment="what retention took out, so that evidence can tell it from loss",
    )
    op.create_table(
        "redaction",
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        must("event", sa.BigInteger(), "number of the audit event"),
        must("evidence", TEXT, "salts of the parts left, commitments of those gone, as JSON"),
        comment="records from which a person was erased",
    )
    op.create_table(
        "hold",
        key("hold_id", sa.BigInteger(), "random"),
        must("name", INDEXED, "as people call it"),
        must("reason", TEXT, "case, or why"),
        must("query", TEXT, "what it holds, as JSON of a Search"),
        must("is_live", sa.Boolean(), "records that come later are held as well"),
        must("set_at", sa.BigInteger(), "microseconds UTC since 1970"),
        must("set_by", TEXT, "who"),
        may("released_at", sa.BigInteger(), "null: in force"),
        may("released_by", TEXT, "who"),
        sa.UniqueConstraint("name", name="hold_by_name"),
        comment="legal holds",
    )
    op.create_table(
        "hold_member",
        key("hold_id", sa.BigInteger(), "hold"),
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        comment="records that a hold was found to cover",
        sqlite_with_rowid=False,
    )
    op.create_index("message_by_client", "message", ["client_address", "record_id"])
    op.create_index("message_by_message_id", "message", ["message_id_hash"])
    op.create_index(
        "message_by_queue_id", "message", ["queue_id"], postgresql_with={"fillfactor": ROOM}
    )
    op.create_index("seal_by_segment", "seal", ["segment_id"])
    op.create_index("seal_by_time", "seal", ["last_record_id"])
    op.create_index("hold_member_by_record", "hold_member", ["record_id"])


def line() -> tuple[sa.Column[Any], sa.Column[Any]]:
    return (
        key("segment_id", sa.BigInteger(), "spool segment the event line came from"),
        key("position", sa.Integer(), "its place among the lines of that segment, from 0"),
    )


def told() -> tuple[sa.Column[Any], ...]:
    return (
        may(
            "removed_at",
            sa.BigInteger(),
            "when it left the queue; microseconds UTC; null: not told",
        ),
        may("salt", HASH, "of the line's evidence; null: unsalted, redacted"),
        must("facts", OCTETS, "what the log said, addresses by their ids; see delivery_facts"),
    )


def deliveries() -> None:
    """What became of messages."""
    redaction = "audit event, salts left, commitments of facts gone; as JSON"
    op.create_table(
        "delivery",
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        *line(),
        *told(),
        must(
            "kinship",
            sa.SmallInteger(),
            "0 the message's, of one 1 requeued 2 forwarded 3 notifying",
        ),
        may("queue_id", TEXT, "Postfix queue id; null: the message's"),
        may("redaction", TEXT, redaction),
        comment="event lines: what the mail log said became of a message",
        sqlite_with_rowid=False,
        **PARTITIONED,
    )
    op.create_table(
        "delivery_waiting",
        *line(),
        *told(),
        must(
            "at",
            sa.BigInteger(),
            "when the first fact was logged; microseconds UTC since 1970",
        ),
        must("relay", INDEXED, "relay whose log it was"),
        must("queue_id", INDEXED, "Postfix queue id"),
        may("redaction", TEXT, redaction),
        comment="event lines whose record has not come, or never will",
    )
    op.create_table(
        "waiting_address",
        key("address_id", sa.BigInteger(), "who"),
        *line(),
        comment="index of addresses in event lines that wait",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "delivery_state",
        key("state", sa.SmallInteger(), "place in schema.DELIVERY_STATES"),
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        comment="index of what happened to messages; what most are has no rows",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "delivery_address",
        key("address_id", sa.BigInteger(), "who"),
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        comment="index of addresses that only the mail log names, as what an alias became",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "forwarded",
        key("relay", INDEXED, "relay whose queue it is"),
        key("queue_id", INDEXED, "queue id of a message that Postfix made from another"),
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        must("at", sa.BigInteger(), "when that was logged; microseconds UTC since 1970"),
        must("kinship", sa.SmallInteger(), "as in delivery: how it was made"),
        comment="queue ids of what was forwarded or requeued, and of notifications, by record",
    )
    for name, columns in (
        ("delivery_waiting_by_queue_id", ["queue_id"]),
        ("delivery_waiting_by_time", ["at"]),
    ):
        op.create_index(name, "delivery_waiting", columns)
    for table in ("delivery_state", "delivery_address", "forwarded"):
        op.create_index(f"{table}_by_record", table, ["record_id"])


def index_tables() -> None:
    """Indexes that are tables, where there are no arrays with GIN."""
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
        "header_term",
        key("term_id", sa.BigInteger(), "word of the subject, or a field's value; see terms"),
        key("record_id", RECORD_ID, "ULID made by the milter; in order of time"),
        comment="index of subject words and of indexed header fields",
        sqlite_with_rowid=False,
    )
    op.create_index("message_by_crossing", "message", ["crossing", "is_signed", "record_id"])
    op.create_index(
        "message_by_login",
        "message",
        ["login_hash", "record_id"],
        sqlite_where=sa.text("login_hash IS NOT NULL"),
    )


def audit() -> None:
    op.create_table(
        "audit",
        key("number", sa.BigInteger(), "from 1 without a gap"),
        must("at", sa.BigInteger(), "microseconds UTC since 1970"),
        must("actor", TEXT, "who"),
        must(
            "action", TEXT, "search, show, trace, stats, export, hold, release, retain, erase, ..."
        ),
        must("reason", TEXT, "case, or why; empty where none is demanded"),
        must("detail", TEXT, "query, counts and what else belongs to it, as JSON"),
        must("previous", DIGEST, "digest of the event before"),
        must("digest", DIGEST, "SHA-256 over all of the above; see audit"),
        comment="who asked for, saw, exported, held and deleted what; rows are only ever added",
    )


def terms() -> None:
    """PostgreSQL: arrays of terms, and partitions by month, which the writer may have made."""
    for table in ("message", "header_section"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN terms bigint[] NOT NULL")
        op.execute(f"COMMENT ON COLUMN {table}.terms IS 'what it is found by; see postings'")
        op.execute(
            f"CREATE INDEX {table}_by_term ON {table} USING gin (terms) WITH (fastupdate = off)"
        )
        op.execute(f"CREATE TABLE {table}_other PARTITION OF {table} DEFAULT")
    op.execute("CREATE TABLE delivery_other PARTITION OF delivery DEFAULT")
    for table, column in (
        ("message", "recipients"),
        ("header_section", "fields"),
        ("delivery", "facts"),
        ("delivery_waiting", "facts"),
    ):
        # Compressed already: not to be tried again.
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")
    for name, statement in FUNCTIONS.items():
        op.execute(statement)
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
    op.execute("SELECT carbonseal_partitions(3)")


# Only the owner of a table can divide it, and the writer is not: these run with the owner's rights
# and do nothing else.
FUNCTIONS = {
    "carbonseal_record_id(timestamptz)": """
CREATE FUNCTION carbonseal_record_id(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$
""",
    "carbonseal_partition(timestamptz)": """
CREATE FUNCTION carbonseal_partition(moment timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '10s'
SET timezone = 'UTC' AS $$
DECLARE
    month timestamptz := date_trunc('month', moment);
    first uuid := carbonseal_record_id(month);
    next uuid := carbonseal_record_id(month + interval '1 month');
    whole text;
    part text;
BEGIN
    -- A clock that is wrong must not make tables without end: such records go to the default.
    IF moment NOT BETWEEN '1995-01-01' AND now() + interval '1 year' THEN
        RETURN false;
    END IF;
    IF to_regclass('delivery_' || to_char(month, 'YYYY_MM')) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('carbonseal partitions'));
    FOREACH whole IN ARRAY ARRAY['message', 'header_section', 'delivery'] LOOP
        part := whole || '_' || to_char(month, 'YYYY_MM');
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, whole);
            IF whole <> 'delivery' THEN
                -- Of a key, LIKE takes no fill factor along; see ROOM.
                EXECUTE format('ALTER INDEX %I SET (fillfactor = 66)', part || '_pkey');
            END IF;
            -- Records that were there before their month.
            EXECUTE format(
                'WITH early AS (DELETE FROM %I WHERE record_id >= %L AND record_id < %L '
                'RETURNING *) INSERT INTO %I SELECT * FROM early',
                whole || '_other', first, next, part);
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                whole, part, first, next);
        END IF;
    END LOOP;
    RETURN true;
END
$$
""",
    "carbonseal_partitions(integer)": """
CREATE FUNCTION carbonseal_partitions(ahead integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
    SELECT count(*) FILTER (WHERE carbonseal_partition(
        date_trunc('month', now()) + month * interval '1 month'))::integer
    FROM generate_series(0, least(ahead, 11)) AS month
$$
""",
    "carbonseal_drop_partition(text)": """
CREATE FUNCTION carbonseal_drop_partition(month text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '10s' AS $$
BEGIN
    IF month !~ '^[0-9]{4}_[0-9]{2}$' THEN
        RAISE EXCEPTION 'months are written like 2026_11';
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %I, %I, %I',
                   'message_' || month, 'header_section_' || month, 'delivery_' || month);
END
$$
""",
}
