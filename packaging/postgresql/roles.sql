-- Roles of the archive on PostgreSQL 13 or later.  Run it once, as a superuser, in the archive's
-- database; running it again changes nothing.
--
--   createdb carbonseal --encoding UTF8 --template template0
--   psql --dbname carbonseal --file roles.sql
--   carbonseal archive upgrade --database postgresql+psycopg://carbonseal_owner@/carbonseal
--   psql --dbname carbonseal --username carbonseal_owner --file grants.sql
--
-- Whom they are for, and what grants.sql lets them do:
--
--   carbonseal_owner    owns the tables and makes those of later versions; nobody works as owner
--   carbonseal_writer   the writer on each relay: adds records, changes and deletes none
--   carbonseal_reader   compliance officers: read, and add to the audit
--   carbonseal_keeper   who sets holds, lets expire and erases: what reader may, and delete
--
-- People and relays get logins of their own, so that the audit and the server's log tell them
-- apart.  A password is set with \password, which keeps it out of files and histories:
--
--   CREATE ROLE mx1 LOGIN IN ROLE carbonseal_writer;      -- \password mx1
--   CREATE ROLE alice LOGIN IN ROLE carbonseal_reader;
--
-- On the server itself no password is needed (peer authentication): name the login like the user
-- of the system, or map one to the other in pg_ident.conf.

\set ON_ERROR_STOP on

-- psql runs what these queries return.
SELECT 'CREATE ROLE carbonseal_owner LOGIN'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'carbonseal_owner') \gexec
SELECT 'CREATE ROLE carbonseal_writer NOLOGIN'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'carbonseal_writer') \gexec
SELECT 'CREATE ROLE carbonseal_reader NOLOGIN'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'carbonseal_reader') \gexec
SELECT 'CREATE ROLE carbonseal_keeper NOLOGIN'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'carbonseal_keeper') \gexec

-- A keeper reads and leaves traces like a reader.
GRANT carbonseal_reader TO carbonseal_keeper;

-- Whoever is not named here has no business in this database: not even temporary tables, whose
-- names could be taken for those of the archive.
SELECT format('ALTER DATABASE %I OWNER TO carbonseal_owner', current_database()) \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO carbonseal_writer, carbonseal_reader',
              current_database()) \gexec
-- Records that are held are carried over in temporary tables when their month goes.
SELECT format('GRANT TEMPORARY ON DATABASE %I TO carbonseal_keeper', current_database()) \gexec

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO carbonseal_writer, carbonseal_reader;
GRANT USAGE, CREATE ON SCHEMA public TO carbonseal_owner;
