-- Copyright: Contributors to the odkops.central collection
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later
-- A database with Central's table names, as small as can be while it has one of most kinds of entries.
CREATE EXTENSION citext;
CREATE TYPE "blobStatus" AS ENUM ('pending', 'uploaded', 'failed', 'skipped');
CREATE TABLE knex_migrations (id serial PRIMARY KEY, name varchar(255), batch integer, migration_time timestamptz);
CREATE TABLE projects (id integer NOT NULL, name text NOT NULL);
CREATE TABLE forms (id integer NOT NULL, "projectId" integer, "xmlFormId" citext, "enketoId" varchar(255), "enketoOnceId" text);
CREATE TABLE form_defs (id integer NOT NULL, "formId" integer, "enketoId" varchar(255), "draftToken" varchar(64));
CREATE TABLE submissions (id integer NOT NULL, "instanceId" varchar(255) NOT NULL, "formId" integer);
CREATE TABLE blobs (id integer NOT NULL, sha varchar(40) NOT NULL, content bytea, "contentType" text NOT NULL, md5 varchar(32),
  s3_status "blobStatus" DEFAULT 'pending'::"blobStatus" NOT NULL, size integer);
CREATE TABLE audits (id integer NOT NULL, action text NOT NULL, details jsonb, "loggedAt" timestamptz);
CREATE TABLE odd (one integer);
ALTER TABLE projects ADD CONSTRAINT projects_pkey PRIMARY KEY (id);
ALTER TABLE forms ADD CONSTRAINT forms_projectid_foreign FOREIGN KEY ("projectId") REFERENCES projects (id);
CREATE UNIQUE INDEX forms_xmlformid_index ON forms USING btree ("xmlFormId");
CREATE FUNCTION check_email(email text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT email LIKE '%@%' $$;
CREATE VIEW form_names AS SELECT "xmlFormId" FROM forms;
COMMENT ON TABLE projects IS 'one for each survey';
CREATE ROLE reader NOLOGIN;
GRANT SELECT ON form_names TO reader;
INSERT INTO knex_migrations (name, batch, migration_time)
  SELECT '2018010' || n || '-01-make-table-' || n || '.js', 1, '2026-01-01 00:00:00+00' FROM generate_series(1, 8) n;
INSERT INTO projects VALUES (1, 'Wells of the north');
INSERT INTO forms VALUES (1, 1, 'household', 'abcdefghijklmnopqrstuvwxyz01234', 'single0123456789'), (2, 1, 'wells', NULL, NULL);
INSERT INTO form_defs VALUES (1, 1, NULL, NULL), (2, 1, 'draftxyzdraftxyzdraftxyzdraftxy', 'tokentokentokentoken');
INSERT INTO submissions SELECT n, 'uuid:' || md5(n::text), 1 + n % 2 FROM generate_series(1, 40) n;
INSERT INTO blobs SELECT n, encode(digest, 'hex'), content, 'image/jpeg', md5(content), 'pending', length(content)
  FROM (SELECT n, decode(md5('a' || n) || md5('b' || n) || md5('c' || n), 'hex') AS content FROM generate_series(1, 6) n) made,
  LATERAL (SELECT decode('00', 'hex') AS digest) unset;
INSERT INTO blobs VALUES (7, '0123456789012345678901234567890123456789', NULL, 'text/plain', NULL, 'uploaded', 9);
INSERT INTO audits VALUES (1, 'user.create', '{"a": 1}', '2026-01-01 00:00:00+00'),
  (2, 'upgrade.server', '{"client": "v2026.1.0", "server": "v2026.1.1", "version": "2026.1.2"}', '2026-01-02 00:00:00+00');
INSERT INTO odd VALUES (1), (2), (3);
