-- Roles of the archive on MariaDB 10.6 or later, Galera included.  Run it as an administrator;
-- running it again changes nothing.
--
--   mariadb -e "CREATE DATABASE carbonseal CHARACTER SET utf8mb4"
--   mariadb carbonseal < roles.sql
--   carbonseal archive upgrade --database 'mysql+pymysql://carbonseal_owner@localhost/carbonseal?read_default_file=…'
--   mariadb carbonseal < grants.sql
--
-- Whom they are for, and what grants.sql lets them do:
--
--   carbonseal_owner    makes the tables, of later versions, too; nobody works as owner
--   carbonseal_writer   the writer on each relay: adds records, changes and deletes none
--   carbonseal_reader   compliance officers: read, and add to the audit
--   carbonseal_keeper   who sets holds, lets expire and erases: what reader may, and delete
--
-- MariaDB gives rights to roles, and roles to users; a user is in a role only once it is set:
--
--   CREATE USER mx1@'192.0.2.25' IDENTIFIED BY '…';       -- REQUIRE SSL over a network
--   GRANT carbonseal_writer TO mx1@'192.0.2.25';
--   SET DEFAULT ROLE carbonseal_writer FOR mx1@'192.0.2.25';
--
-- The owner of the command above is such a user as well, of the same name as its role:
--
--   CREATE USER carbonseal_owner@localhost IDENTIFIED BY '…';
--   GRANT carbonseal_owner TO carbonseal_owner@localhost;
--   SET DEFAULT ROLE carbonseal_owner FOR carbonseal_owner@localhost;
--
-- The password belongs into an option file of mode 0600 that record.database names
-- (?read_default_file=/etc/carbonseal/mariadb.cnf), not into the URL.

CREATE ROLE IF NOT EXISTS carbonseal_owner;
CREATE ROLE IF NOT EXISTS carbonseal_writer;
CREATE ROLE IF NOT EXISTS carbonseal_reader;
CREATE ROLE IF NOT EXISTS carbonseal_keeper;

-- Without a name it is the database that this is run in.
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES ON * TO carbonseal_owner;
