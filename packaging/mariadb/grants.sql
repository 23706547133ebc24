-- What the roles of roles.sql may do with the archive's tables.  Run it as an administrator after
-- `carbonseal archive upgrade`, and again after each later upgrade; running it again changes
-- nothing.  It takes away what it does not name.
--
--   mariadb carbonseal < grants.sql

REVOKE ALL PRIVILEGES, GRANT OPTION FROM carbonseal_writer;
REVOKE ALL PRIVILEGES, GRANT OPTION FROM carbonseal_reader;
REVOKE ALL PRIVILEGES, GRANT OPTION FROM carbonseal_keeper;

-- Everybody reads: officers what they search, writers what they need not add again.
GRANT SELECT ON * TO carbonseal_writer;
GRANT SELECT ON * TO carbonseal_reader;
GRANT SELECT ON * TO carbonseal_keeper;

-- The writer adds.  Whoever takes over a relay can neither change nor delete what is on record.
GRANT INSERT ON message TO carbonseal_writer;
GRANT INSERT ON header_section TO carbonseal_writer;
GRANT INSERT ON participant TO carbonseal_writer;
GRANT INSERT ON participant_domain TO carbonseal_writer;
GRANT INSERT ON header_term TO carbonseal_writer;
GRANT INSERT ON seal TO carbonseal_writer;
GRANT INSERT ON stamp TO carbonseal_writer;
GRANT INSERT ON header_dictionary TO carbonseal_writer;
GRANT INSERT ON delivery TO carbonseal_writer;
-- Lines of the mail log move to their record when it comes.
GRANT INSERT, UPDATE, DELETE ON delivery_waiting TO carbonseal_writer;
GRANT INSERT, UPDATE, DELETE ON waiting_address TO carbonseal_writer;
-- How far a segment is loaded is book-keeping, no evidence.
GRANT INSERT, UPDATE ON segment TO carbonseal_writer;
-- "Insert unless it is there" is an update on MariaDB, and asks for the right to one.  So a relay
-- that was taken over could change what the dictionaries say, and `archive verify` would find it;
-- on PostgreSQL it could not.
GRANT INSERT, UPDATE ON domain TO carbonseal_writer;
GRANT INSERT, UPDATE ON address TO carbonseal_writer;
GRANT INSERT, UPDATE ON circumstance TO carbonseal_writer;
GRANT INSERT, UPDATE ON route TO carbonseal_writer;
GRANT INSERT, UPDATE ON signing_form TO carbonseal_writer;
GRANT INSERT, UPDATE ON verdict TO carbonseal_writer;
GRANT INSERT, UPDATE ON retention TO carbonseal_writer;
GRANT INSERT, UPDATE ON set_aside TO carbonseal_writer;
GRANT INSERT, UPDATE ON repeated TO carbonseal_writer;
GRANT INSERT, UPDATE ON delivery_state TO carbonseal_writer;
GRANT INSERT, UPDATE ON delivery_address TO carbonseal_writer;
GRANT INSERT, UPDATE ON forwarded TO carbonseal_writer;

-- Officers leave a trace of what they asked for, and can remove none.
-- Whoever asks or imports by a relay's own login is written down as well.
GRANT INSERT ON audit TO carbonseal_writer;
GRANT INSERT ON audit TO carbonseal_reader;
GRANT INSERT ON audit TO carbonseal_keeper;

-- Holds.
GRANT INSERT, UPDATE ON hold TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON hold_member TO carbonseal_keeper;
-- Retention and erasure: records go, or come back without a person or a subject; what went is
-- written down.
GRANT INSERT, DELETE ON message TO carbonseal_keeper;
GRANT INSERT, DELETE ON header_section TO carbonseal_keeper;
GRANT INSERT, DELETE ON redaction TO carbonseal_keeper;
GRANT INSERT, DELETE ON participant TO carbonseal_keeper;
GRANT INSERT, DELETE ON participant_domain TO carbonseal_keeper;
GRANT INSERT, DELETE ON header_term TO carbonseal_keeper;
GRANT INSERT, DELETE ON delivery TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON delivery_waiting TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON waiting_address TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON delivery_state TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON delivery_address TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON forwarded TO carbonseal_keeper;
GRANT UPDATE ON dictionary_epoch TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON tombstone TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON address TO carbonseal_keeper;
GRANT INSERT, UPDATE, DELETE ON domain TO carbonseal_keeper;
GRANT INSERT, UPDATE ON circumstance TO carbonseal_keeper;
GRANT INSERT, UPDATE ON route TO carbonseal_keeper;
GRANT INSERT, UPDATE ON signing_form TO carbonseal_keeper;
GRANT INSERT, UPDATE ON verdict TO carbonseal_keeper;
GRANT INSERT, UPDATE ON retention TO carbonseal_keeper;
GRANT INSERT, UPDATE ON repeated TO carbonseal_keeper;
GRANT UPDATE (why) ON set_aside TO carbonseal_keeper;
