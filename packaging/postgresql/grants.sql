-- What the roles of roles.sql may do with the archive's tables.  Run it as carbonseal_owner after
-- `carbonseal archive upgrade`, and again after each later upgrade; running it again changes
-- nothing.  It takes away what it does not name.
--
--   psql --dbname carbonseal --username carbonseal_owner --file grants.sql

\set ON_ERROR_STOP on
BEGIN;

REVOKE ALL ON ALL TABLES IN SCHEMA public
  FROM PUBLIC, carbonseal_writer, carbonseal_reader, carbonseal_keeper;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public
  FROM PUBLIC, carbonseal_writer, carbonseal_reader, carbonseal_keeper;

-- These run with the owner's rights.  A temporary table of the caller's must not be taken for one
-- of the archive's.
ALTER FUNCTION carbonseal_partition(timestamptz) SET search_path = public, pg_temp;
ALTER FUNCTION carbonseal_partitions(integer) SET search_path = public, pg_temp;
ALTER FUNCTION carbonseal_drop_partition(text) SET search_path = public, pg_temp;

-- Everybody reads: officers what they search, writers what they need not add again.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO carbonseal_writer, carbonseal_reader;

-- The writer adds.  Whoever takes over a relay can neither change nor delete what is on record.
GRANT INSERT ON
    message, header_section,
    domain, role_set, address, circumstance, route, signing_form, verdict, retention,
    segment, set_aside, repeated, seal, stamp, header_dictionary,
    delivery, delivery_state, delivery_address, delivery_waiting, waiting_address, forwarded
  TO carbonseal_writer;
-- Lines of the mail log move to their record when it comes.
GRANT DELETE ON delivery_waiting, waiting_address TO carbonseal_writer;
-- How far a segment is loaded is book-keeping, no evidence.
GRANT UPDATE ON segment TO carbonseal_writer;
-- Tables for months that are missing.
GRANT EXECUTE ON FUNCTION carbonseal_partition(timestamptz), carbonseal_partitions(integer)
  TO carbonseal_writer;

-- Officers leave a trace of what they asked for, and can remove none.
-- Whoever asks or imports by a relay's own login is written down as well.
GRANT INSERT ON audit TO carbonseal_reader, carbonseal_writer;

-- Holds.
GRANT INSERT, UPDATE ON hold TO carbonseal_keeper;
GRANT INSERT, DELETE ON hold_member TO carbonseal_keeper;
-- Retention and erasure: records go, or come back without a person or a subject; what went is
-- written down.
GRANT INSERT, DELETE ON
    message, header_section, redaction,
    delivery, delivery_state, delivery_address, delivery_waiting, waiting_address, forwarded
  TO carbonseal_keeper;
GRANT UPDATE ON dictionary_epoch TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON tombstone TO carbonseal_keeper;
GRANT INSERT ON
    domain, role_set, address, circumstance, route, signing_form, verdict, retention, repeated
  TO carbonseal_keeper;
GRANT UPDATE, DELETE ON address TO carbonseal_keeper;
GRANT DELETE ON domain, role_set TO carbonseal_keeper;
GRANT UPDATE (why) ON set_aside TO carbonseal_keeper;
GRANT EXECUTE ON FUNCTION
    carbonseal_partition(timestamptz), carbonseal_partitions(integer),
    carbonseal_drop_partition(text)
  TO carbonseal_keeper;

COMMIT;
