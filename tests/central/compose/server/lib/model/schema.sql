-- Copyright: Contributors to the odkops.central collection
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

-- The tables of Central v2026.1 (migration 20260312-01): names, columns, types, constraints and indexes as its
-- migrations make them. Later migrations are in steps/. Left out: functions and views that extract geometry.

CREATE EXTENSION IF NOT EXISTS citext;
CREATE EXTENSION IF NOT EXISTS pg_trgm;

CREATE TYPE "conflictType" AS ENUM ('soft', 'hard');
CREATE TYPE s3_upload_status AS ENUM ('pending', 'uploaded', 'failed', 'skipped');

-- Actors, rights, sessions
CREATE TABLE actees (
  id varchar(36) NOT NULL,
  species varchar(36),
  parent varchar(36),
  "purgedAt" timestamptz(3),
  "purgedName" text,
  details jsonb,
  PRIMARY KEY (id)
);
CREATE INDEX actees_parent_index ON actees (parent);
CREATE TABLE actors (
  id serial NOT NULL,
  type varchar(15),
  "acteeId" varchar(36) NOT NULL,
  "displayName" varchar(64) NOT NULL,
  meta jsonb,
  "createdAt" timestamptz(3),
  "updatedAt" timestamptz(3),
  "deletedAt" timestamptz(3),
  "expiresAt" timestamptz(3),
  PRIMARY KEY (id)
);
CREATE INDEX actors_displayname_gist_index ON actors USING gist ("displayName" gist_trgm_ops);
CREATE INDEX actors_type_index ON actors (type);
CREATE UNIQUE INDEX idx_fk_actors_acteeid ON actors ("acteeId");
CREATE TABLE users (
  "actorId" integer NOT NULL,
  password varchar(64),
  email citext NOT NULL,
  "lastLoginAt" timestamptz(3),
  PRIMARY KEY ("actorId")
);
CREATE INDEX users_email_gist_index ON users USING gist (email gist_trgm_ops);
CREATE INDEX users_email_index ON users (email);
CREATE TABLE roles (
  id serial NOT NULL,
  name text NOT NULL,
  system varchar(8),
  "createdAt" timestamptz(3),
  "updatedAt" timestamptz(3),
  verbs jsonb,
  PRIMARY KEY (id)
);
CREATE INDEX roles_verbs_gin_index ON roles USING gin (verbs jsonb_path_ops);
CREATE TABLE assignments (
  "actorId" integer NOT NULL,
  "roleId" integer NOT NULL,
  "acteeId" varchar(36) NOT NULL,
  PRIMARY KEY ("actorId", "roleId", "acteeId")
);
CREATE INDEX assignments_actorid_index ON assignments ("actorId");
CREATE INDEX idx_fk_assignments_acteeid ON assignments ("acteeId");
CREATE INDEX idx_fk_assignments_roleid ON assignments ("roleId");
CREATE TABLE sessions (
  "actorId" integer NOT NULL,
  token varchar(64) NOT NULL,
  "expiresAt" timestamptz(3) NOT NULL,
  "createdAt" timestamptz(3),
  csrf varchar(64)
);
CREATE INDEX sessions_actorid_expires_index ON sessions ("actorId", "expiresAt");
CREATE UNIQUE INDEX sessions_token_index ON sessions (token);
CREATE TABLE user_site_preferences (
  "userId" integer NOT NULL,
  "propertyName" text NOT NULL,
  "propertyValue" jsonb NOT NULL,
  CONSTRAINT "user_site_preferences_propertyName_check" CHECK ((length("propertyName") > 0)),
  CONSTRAINT user_site_preferences_primary_key PRIMARY KEY ("userId", "propertyName")
);
CREATE INDEX "user_site_preferences_userId_idx" ON user_site_preferences ("userId");
CREATE TABLE user_project_preferences (
  "userId" integer NOT NULL,
  "projectId" integer NOT NULL,
  "propertyName" text NOT NULL,
  "propertyValue" jsonb NOT NULL,
  CONSTRAINT "user_project_preferences_propertyName_check" CHECK ((length("propertyName") > 0)),
  CONSTRAINT user_project_preferences_primary_key PRIMARY KEY ("userId", "projectId", "propertyName")
);
CREATE INDEX idx_fk_user_project_preferences_projectid ON user_project_preferences ("projectId");
CREATE INDEX "user_project_preferences_userId_idx" ON user_project_preferences ("userId");

-- Projects and what opens them
CREATE TABLE keys (
  id serial NOT NULL,
  public text NOT NULL,
  private jsonb,
  managed boolean,
  hint text,
  "createdAt" timestamptz(3),
  PRIMARY KEY (id),
  CONSTRAINT keys_public_unique UNIQUE (public)
);
CREATE INDEX keys_public_index ON keys (public);
CREATE TABLE projects (
  id serial NOT NULL,
  name text NOT NULL,
  "acteeId" varchar(36) NOT NULL,
  "createdAt" timestamptz(3),
  "updatedAt" timestamptz(3),
  "deletedAt" timestamptz(3),
  archived boolean,
  "keyId" integer,
  description text,
  CONSTRAINT projects_acteeid_unique UNIQUE ("acteeId"),
  PRIMARY KEY (id)
);
CREATE UNIQUE INDEX idx_fk_projects_keyid ON projects ("keyId");
CREATE TABLE field_keys (
  "actorId" integer NOT NULL,
  "createdBy" integer NOT NULL,
  "projectId" integer,
  PRIMARY KEY ("actorId")
);
CREATE INDEX field_keys_actorid_projectid_index ON field_keys ("actorId", "projectId");
CREATE INDEX idx_fk_field_keys_createdby ON field_keys ("createdBy");
CREATE INDEX idx_fk_field_keys_projectid ON field_keys ("projectId");
CREATE TABLE public_links (
  "actorId" integer NOT NULL,
  "createdBy" integer NOT NULL,
  "formId" integer NOT NULL,
  once boolean,
  PRIMARY KEY ("actorId")
);
CREATE INDEX idx_fk_public_links_createdby ON public_links ("createdBy");
CREATE INDEX idx_fk_public_links_formid ON public_links ("formId");

-- Files
CREATE TABLE blobs (
  id serial NOT NULL,
  sha varchar(40) NOT NULL,
  content bytea,
  "contentType" text DEFAULT 'application/octet-stream' NOT NULL,
  md5 varchar(32) NOT NULL,
  s3_status s3_upload_status DEFAULT 'pending' NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT blobs_sha_content_type_unique UNIQUE (sha, "contentType")
);
CREATE INDEX blobs_sha_index ON blobs (sha);

-- Forms
CREATE TABLE forms (
  id serial NOT NULL,
  "xmlFormId" varchar(64) NOT NULL,
  "createdAt" timestamptz(3),
  "updatedAt" timestamptz(3),
  "deletedAt" timestamptz(3),
  "acteeId" varchar(36) NOT NULL,
  state text DEFAULT 'open',
  "projectId" integer NOT NULL,
  "currentDefId" integer,
  "draftDefId" integer,
  "enketoId" varchar(255),
  "enketoOnceId" text,
  "webformsEnabled" boolean DEFAULT false NOT NULL,
  PRIMARY KEY (id)
);
CREATE INDEX forms_deletedat_state_index ON forms ("deletedAt", state);
CREATE UNIQUE INDEX forms_projectid_xmlformid_deletedat_unique ON forms ("projectId", "xmlFormId") WHERE ("deletedAt" IS NULL);
CREATE INDEX forms_xmlformid_index ON forms ("xmlFormId");
CREATE UNIQUE INDEX idx_fk_forms_acteeid ON forms ("acteeId");
CREATE UNIQUE INDEX idx_fk_forms_currentdefid ON forms ("currentDefId");
CREATE UNIQUE INDEX idx_fk_forms_draftdefid ON forms ("draftDefId");
CREATE INDEX idx_fk_forms_projectid ON forms ("projectId");
CREATE TABLE form_schemas (
  id serial NOT NULL,
  PRIMARY KEY (id)
);
CREATE TABLE form_defs (
  id serial NOT NULL,
  "formId" integer,
  xml text NOT NULL,
  hash varchar(32) NOT NULL,
  sha varchar(40) NOT NULL,
  sha256 varchar(64) NOT NULL,
  version text NOT NULL,
  "createdAt" timestamptz(3),
  "keyId" integer,
  "xlsBlobId" integer,
  "publishedAt" timestamptz(3),
  "draftToken" varchar(64),
  "enketoId" varchar(255),
  name text,
  "schemaId" integer,
  PRIMARY KEY (id)
);
CREATE INDEX form_defs_formid_publishedat_index ON form_defs ("formId", "publishedAt");
CREATE INDEX idx_fk_form_defs_keyid ON form_defs ("keyId");
CREATE INDEX idx_fk_form_defs_schemaid ON form_defs ("schemaId");
CREATE INDEX idx_fk_form_defs_xlsblobid ON form_defs ("xlsBlobId");
CREATE TABLE form_fields (
  "formId" integer NOT NULL,
  path text NOT NULL,
  name text NOT NULL,
  type varchar(32) NOT NULL,
  "binary" boolean,
  "order" integer NOT NULL,
  "selectMultiple" boolean,
  "schemaId" integer NOT NULL,
  PRIMARY KEY ("schemaId", path)
);
CREATE INDEX form_fields_formid_path_type_index ON form_fields ("formId", path, type);
CREATE INDEX form_fields_schemaid_binary_index ON form_fields ("schemaId", "binary");
CREATE INDEX form_fields_schemaid_order_index ON form_fields ("schemaId", "order");
CREATE TABLE form_attachments (
  "formId" integer NOT NULL,
  "blobId" integer,
  name text NOT NULL,
  type text,
  "formDefId" integer NOT NULL,
  "updatedAt" timestamptz(3),
  "datasetId" integer,
  CONSTRAINT "check_blobId_or_datasetId_is_null" CHECK ((("blobId" IS NULL) OR ("datasetId" IS NULL))),
  CONSTRAINT "check_datasetId_is_null_for_non_file" CHECK (((type = 'file') OR ("datasetId" IS NULL))),
  PRIMARY KEY ("formDefId", name)
);
CREATE INDEX form_attachments_formid_index ON form_attachments ("formId");
CREATE INDEX idx_fk_form_attachments_blobid ON form_attachments ("blobId");
CREATE INDEX idx_fk_form_attachments_datasetid ON form_attachments ("datasetId");

-- Submissions
CREATE TABLE submissions (
  id serial NOT NULL,
  "formId" integer NOT NULL,
  "instanceId" varchar(64) NOT NULL,
  "createdAt" timestamptz(3),
  "updatedAt" timestamptz(3),
  "deletedAt" timestamptz(3),
  "submitterId" integer,
  "deviceId" varchar(255),
  draft boolean NOT NULL,
  "reviewState" text,
  event bigint,
  CONSTRAINT submissions_formid_instanceid_draft_unique UNIQUE ("formId", "instanceId", draft),
  PRIMARY KEY (id)
);
CREATE INDEX idx_fk_submissions_submitterid ON submissions ("submitterId");
CREATE UNIQUE INDEX submission_event_idx ON submissions (event);
CREATE INDEX submissions_formid_createdat_id_index ON submissions ("formId", "createdAt", id);
CREATE INDEX "submissions_reviewState_idx" ON submissions ("reviewState");
CREATE TABLE submission_defs (
  id serial NOT NULL,
  "submissionId" integer NOT NULL,
  xml text NOT NULL,
  "formDefId" integer NOT NULL,
  "submitterId" integer,
  "createdAt" timestamptz(3),
  "encDataAttachmentName" varchar(255),
  "localKey" text,
  signature text,
  current boolean,
  "instanceName" text,
  "instanceId" varchar(64) NOT NULL,
  "userAgent" varchar(255),
  "deviceId" varchar(255),
  root boolean,
  PRIMARY KEY (id)
);
CREATE INDEX idx_fk_submission_defs_formdefid ON submission_defs ("formDefId");
CREATE INDEX idx_fk_submission_defs_submitterid ON submission_defs ("submitterId");
CREATE INDEX submission_defs_createdat_id_index ON submission_defs ("createdAt", id);
CREATE INDEX submission_defs_submissionid_current_index ON submission_defs ("submissionId", current);
CREATE INDEX submission_defs_submissionid_instanceid_index ON submission_defs ("submissionId", "instanceId");
CREATE TABLE submission_attachments (
  "blobId" integer,
  name text NOT NULL,
  "submissionDefId" integer NOT NULL,
  index integer,
  "isClientAudit" boolean,
  PRIMARY KEY ("submissionDefId", name)
);
CREATE INDEX idx_fk_submission_attachments_blobid ON submission_attachments ("blobId");
CREATE TABLE form_field_values (
  "formId" integer NOT NULL,
  "submissionDefId" integer NOT NULL,
  path text NOT NULL,
  value text
);
CREATE INDEX form_field_values_formid_index ON form_field_values ("formId");
CREATE INDEX form_field_values_formid_submissiondefid_path_index ON form_field_values ("formId", "submissionDefId", path);
CREATE INDEX form_field_values_submissiondefid_index ON form_field_values ("submissionDefId");
CREATE TABLE client_audits (
  "blobId" integer NOT NULL,
  event text,
  node text,
  start text,
  "end" text,
  latitude text,
  longitude text,
  accuracy text,
  "old-value" text,
  "new-value" text,
  remainder jsonb,
  "user" text,
  "change-reason" text
);
CREATE INDEX client_audits_start_index ON client_audits (start);
CREATE INDEX idx_fk_client_audits_blobid ON client_audits ("blobId");
CREATE TABLE comments (
  id serial NOT NULL,
  "submissionId" integer NOT NULL,
  "actorId" integer NOT NULL,
  body text NOT NULL,
  "createdAt" timestamptz(3),
  PRIMARY KEY (id)
);
CREATE INDEX comments_submissionid_index ON comments ("submissionId");
CREATE INDEX idx_fk_comments_actorid ON comments ("actorId");
CREATE TABLE submission_field_extract_geo_cache (
  submission_def_id integer NOT NULL,
  fieldhash bigint NOT NULL,
  geovalue json,
  PRIMARY KEY (submission_def_id, fieldhash)
);
CREATE INDEX submission_field_extract_geo_cache_non_null_geovalue ON submission_field_extract_geo_cache (((geovalue IS NOT NULL)));
CREATE TABLE current_event (
  event bigint NOT NULL
);

-- Entity lists
CREATE TABLE datasets (
  id serial NOT NULL,
  name text NOT NULL,
  "acteeId" varchar(36) NOT NULL,
  "createdAt" timestamptz(3) NOT NULL,
  "projectId" integer NOT NULL,
  "publishedAt" timestamptz(3),
  "approvalRequired" boolean DEFAULT false NOT NULL,
  "ownerOnly" boolean DEFAULT false NOT NULL,
  "deletedAt" timestamptz(3),
  PRIMARY KEY (id)
);
CREATE UNIQUE INDEX dataset_projectid_name_deletedat_unique ON datasets ("projectId", name) WHERE ("deletedAt" IS NULL);
CREATE INDEX idx_fk_datasets_projectid ON datasets ("projectId");
CREATE TABLE ds_properties (
  id serial NOT NULL,
  name text NOT NULL,
  "datasetId" integer NOT NULL,
  "publishedAt" timestamptz(3),
  "deletedAt" timestamptz(3),
  PRIMARY KEY (id)
);
CREATE UNIQUE INDEX ds_properties_datasetid_name_deletedat_unique ON ds_properties ("datasetId", name) WHERE ("deletedAt" IS NULL);
CREATE INDEX idx_fk_ds_properties_datasetid ON ds_properties ("datasetId");
CREATE TABLE dataset_form_defs (
  "datasetId" integer NOT NULL,
  "formDefId" integer NOT NULL,
  actions jsonb NOT NULL,
  path text DEFAULT '/' NOT NULL,
  "isRepeat" boolean DEFAULT false NOT NULL,
  CONSTRAINT dataset_form_defs_datasetid_formdefid_unique UNIQUE ("datasetId", "formDefId")
);
CREATE INDEX idx_fk_dataset_form_defs_formdefid ON dataset_form_defs ("formDefId");
CREATE TABLE ds_property_fields (
  "dsPropertyId" integer,
  "formDefId" integer,
  path text,
  CONSTRAINT ds_property_fields_dspropertyid_formdefid_unique UNIQUE ("dsPropertyId", "formDefId"),
  CONSTRAINT ds_property_fields_dspropertyid_path_formdefid_unique UNIQUE ("dsPropertyId", path, "formDefId")
);
CREATE TABLE entities (
  id serial NOT NULL,
  uuid uuid NOT NULL,
  "datasetId" integer NOT NULL,
  "createdAt" timestamptz(3) NOT NULL,
  "creatorId" integer NOT NULL,
  "updatedAt" timestamptz(3),
  "deletedAt" timestamptz(3),
  conflict "conflictType",
  PRIMARY KEY (id),
  CONSTRAINT entities_uuid_unique UNIQUE (uuid)
);
CREATE INDEX entities_conflict_idx ON entities (conflict);
CREATE INDEX entities_datasetid_createdat_id_index ON entities ("datasetId", "createdAt", id);
CREATE INDEX entities_datasetid_creatorid_updatedat_index ON entities ("datasetId", "creatorId", "updatedAt");
CREATE INDEX entities_deletedat_index ON entities ("deletedAt");
CREATE INDEX idx_fk_entities_creatorid ON entities ("creatorId");
CREATE TABLE entity_def_sources (
  id serial NOT NULL,
  type varchar(36) NOT NULL,
  "auditId" integer,
  "submissionDefId" integer,
  details jsonb,
  "forceProcessed" boolean,
  PRIMARY KEY (id)
);
CREATE UNIQUE INDEX idx_fk_entity_def_sources_auditid ON entity_def_sources ("auditId");
CREATE INDEX idx_fk_entity_def_sources_submissiondefid ON entity_def_sources ("submissionDefId");
CREATE TABLE entity_defs (
  id serial NOT NULL,
  "entityId" integer NOT NULL,
  "createdAt" timestamptz(3) NOT NULL,
  current boolean,
  data jsonb NOT NULL,
  "creatorId" integer NOT NULL,
  "userAgent" varchar(255),
  label text NOT NULL,
  root boolean DEFAULT false NOT NULL,
  "sourceId" integer,
  version integer DEFAULT 1 NOT NULL,
  "dataReceived" jsonb DEFAULT '{}' NOT NULL,
  "baseVersion" integer,
  "conflictingProperties" jsonb,
  "branchId" uuid,
  "trunkVersion" integer,
  "branchBaseVersion" integer,
  PRIMARY KEY (id)
);
CREATE INDEX entity_defs_entityid_current_index ON entity_defs ("entityId", current);
CREATE INDEX entity_defs_has_geometry ON entity_defs (id) WHERE ((data ? 'geometry') AND ((data ->> 'geometry') ~ '\d'));
CREATE INDEX entity_defs_search_index ON entity_defs USING gin (((jsonb_to_tsvector('simple', data, '["string"]') || to_tsvector('simple', label)))) WHERE (current = true);
CREATE INDEX entity_defs_sourceid_index ON entity_defs ("sourceId");
CREATE TABLE entity_submission_backlog (
  "submissionId" integer NOT NULL,
  "submissionDefId" integer NOT NULL,
  "branchId" uuid NOT NULL,
  "branchBaseVersion" integer NOT NULL,
  "loggedAt" timestamptz(3) NOT NULL,
  "auditId" integer NOT NULL,
  "entityUuid" uuid NOT NULL,
  CONSTRAINT "entity_submission_backlog_branchId_branchBaseVersion_key" UNIQUE ("branchId", "branchBaseVersion")
);
CREATE INDEX idx_fk_entity_submission_backlog_auditid ON entity_submission_backlog ("auditId");
CREATE INDEX idx_fk_entity_submission_backlog_submissiondefid ON entity_submission_backlog ("submissionDefId");
CREATE INDEX idx_fk_entity_submission_backlog_submissionid ON entity_submission_backlog ("submissionId");
CREATE TABLE purged_entities (
  "entityUuid" uuid NOT NULL,
  "acteeId" varchar NOT NULL,
  "auditId" serial NOT NULL,
  PRIMARY KEY ("entityUuid")
);
CREATE INDEX purged_entities_actee_uuid_index ON purged_entities ("acteeId", "entityUuid");

-- Server
CREATE TABLE audits (
  "actorId" integer,
  action text NOT NULL,
  "acteeId" varchar(36),
  details jsonb,
  "loggedAt" timestamptz(3),
  claimed timestamptz(3),
  processed timestamptz(3),
  "lastFailure" timestamptz(3),
  failures integer DEFAULT 0,
  id serial NOT NULL,
  notes text,
  PRIMARY KEY (id)
);
CREATE INDEX audits_acteeid_loggedat_index ON audits ("acteeId", "loggedAt");
CREATE INDEX audits_action_acteeid_loggedat_index ON audits (action, "acteeId", "loggedAt");
CREATE INDEX audits_actorid_action_loggedat_index ON audits ("actorId", action, "loggedAt");
CREATE INDEX audits_actorid_loggedat_index ON audits ("actorId", "loggedAt");
CREATE INDEX audits_claimed_processed_index ON audits (claimed, processed);
CREATE INDEX audits_details_entity_def_index ON audits USING hash ((((details ->> 'entityDefId'))::integer));
CREATE INDEX audits_details_entity_index ON audits USING hash ((((details ->> 'entityId'))::integer));
CREATE INDEX audits_details_entity_source_index ON audits USING hash ((((details ->> 'sourceId'))::integer));
CREATE INDEX audits_details_entity_uuid ON audits USING hash ((((details -> 'entity') ->> 'uuid'))) WHERE (action IN ('entity.create', 'entity.update', 'entity.update.version', 'entity.update.resolve', 'entity.delete', 'entity.restore'));
CREATE INDEX audits_details_entity_uuid_index ON audits USING hash ((((details -> 'entity') ->> 'uuid')));
CREATE INDEX audits_details_entityuuids ON audits USING gin (((details -> 'entityUuids')) jsonb_path_ops) WHERE (action IN ('entity.purge', 'entity.bulk.delete', 'entity.bulk.restore'));
CREATE INDEX audits_details_submission_index ON audits USING hash ((((details -> 'submissionId'))::integer));
CREATE TABLE config (
  key varchar(40) NOT NULL,
  value jsonb,
  "setAt" timestamptz(3),
  "blobId" integer,
  PRIMARY KEY (key)
);
CREATE INDEX idx_fk_config_blobid ON config ("blobId");

-- References, after all tables, since some go in circles
ALTER TABLE actors
  ADD CONSTRAINT actors_acteeid_foreign FOREIGN KEY ("acteeId") REFERENCES actees(id);
ALTER TABLE users
  ADD CONSTRAINT users_actorid_foreign FOREIGN KEY ("actorId") REFERENCES actors(id);
ALTER TABLE assignments
  ADD CONSTRAINT assignments_acteeid_foreign FOREIGN KEY ("acteeId") REFERENCES actees(id),
  ADD CONSTRAINT assignments_actorid_foreign FOREIGN KEY ("actorId") REFERENCES actors(id),
  ADD CONSTRAINT assignments_roleid_foreign FOREIGN KEY ("roleId") REFERENCES roles(id);
ALTER TABLE sessions
  ADD CONSTRAINT sessions_actorid_foreign FOREIGN KEY ("actorId") REFERENCES actors(id);
ALTER TABLE user_site_preferences
  ADD CONSTRAINT "user_site_preferences_userId_fkey" FOREIGN KEY ("userId") REFERENCES users("actorId");
ALTER TABLE user_project_preferences
  ADD CONSTRAINT "user_project_preferences_projectId_fkey" FOREIGN KEY ("projectId") REFERENCES projects(id),
  ADD CONSTRAINT "user_project_preferences_userId_fkey" FOREIGN KEY ("userId") REFERENCES users("actorId");
ALTER TABLE projects
  ADD CONSTRAINT projects_keyid_foreign FOREIGN KEY ("keyId") REFERENCES keys(id);
ALTER TABLE field_keys
  ADD CONSTRAINT field_keys_actorid_foreign FOREIGN KEY ("actorId") REFERENCES actors(id),
  ADD CONSTRAINT field_keys_createdby_foreign FOREIGN KEY ("createdBy") REFERENCES actors(id),
  ADD CONSTRAINT field_keys_projectid_foreign FOREIGN KEY ("projectId") REFERENCES projects(id);
ALTER TABLE public_links
  ADD CONSTRAINT public_links_actorid_foreign FOREIGN KEY ("actorId") REFERENCES actors(id),
  ADD CONSTRAINT public_links_createdby_foreign FOREIGN KEY ("createdBy") REFERENCES actors(id),
  ADD CONSTRAINT public_links_formid_foreign FOREIGN KEY ("formId") REFERENCES forms(id) ON DELETE CASCADE;
ALTER TABLE forms
  ADD CONSTRAINT forms_acteeid_foreign FOREIGN KEY ("acteeId") REFERENCES actees(id),
  ADD CONSTRAINT forms_currentdefid_foreign FOREIGN KEY ("currentDefId") REFERENCES form_defs(id),
  ADD CONSTRAINT forms_draftdefid_foreign FOREIGN KEY ("draftDefId") REFERENCES form_defs(id),
  ADD CONSTRAINT forms_projectid_foreign FOREIGN KEY ("projectId") REFERENCES projects(id);
ALTER TABLE form_defs
  ADD CONSTRAINT form_defs_formid_foreign FOREIGN KEY ("formId") REFERENCES forms(id) ON DELETE CASCADE,
  ADD CONSTRAINT form_defs_keyid_foreign FOREIGN KEY ("keyId") REFERENCES keys(id),
  ADD CONSTRAINT form_defs_schemaid_foreign FOREIGN KEY ("schemaId") REFERENCES form_schemas(id),
  ADD CONSTRAINT form_defs_xlsblobid_foreign FOREIGN KEY ("xlsBlobId") REFERENCES blobs(id);
ALTER TABLE form_fields
  ADD CONSTRAINT form_fields_formid_foreign FOREIGN KEY ("formId") REFERENCES forms(id) ON DELETE CASCADE,
  ADD CONSTRAINT form_fields_schemaid_foreign FOREIGN KEY ("schemaId") REFERENCES form_schemas(id) ON DELETE CASCADE;
ALTER TABLE form_attachments
  ADD CONSTRAINT form_attachments_blobid_foreign FOREIGN KEY ("blobId") REFERENCES blobs(id),
  ADD CONSTRAINT form_attachments_datasetid_foreign FOREIGN KEY ("datasetId") REFERENCES datasets(id) ON DELETE SET NULL,
  ADD CONSTRAINT form_attachments_formdefid_foreign FOREIGN KEY ("formDefId") REFERENCES form_defs(id) ON DELETE CASCADE,
  ADD CONSTRAINT form_attachments_formid_foreign FOREIGN KEY ("formId") REFERENCES forms(id) ON DELETE CASCADE;
ALTER TABLE submissions
  ADD CONSTRAINT submissions_formid_foreign FOREIGN KEY ("formId") REFERENCES forms(id) ON DELETE CASCADE,
  ADD CONSTRAINT submissions_submitter_foreign FOREIGN KEY ("submitterId") REFERENCES actors(id);
ALTER TABLE submission_defs
  ADD CONSTRAINT submission_defs_actorid_foreign FOREIGN KEY ("submitterId") REFERENCES actors(id),
  ADD CONSTRAINT submission_defs_formdefid_foreign FOREIGN KEY ("formDefId") REFERENCES form_defs(id) ON DELETE CASCADE,
  ADD CONSTRAINT submission_defs_submissionid_foreign FOREIGN KEY ("submissionId") REFERENCES submissions(id) ON DELETE CASCADE;
ALTER TABLE submission_attachments
  ADD CONSTRAINT attachments_blobid_foreign FOREIGN KEY ("blobId") REFERENCES blobs(id),
  ADD CONSTRAINT submission_attachments_submissiondefid_foreign FOREIGN KEY ("submissionDefId") REFERENCES submission_defs(id) ON DELETE CASCADE;
ALTER TABLE form_field_values
  ADD CONSTRAINT form_field_values_formid_foreign FOREIGN KEY ("formId") REFERENCES forms(id) ON DELETE CASCADE,
  ADD CONSTRAINT form_field_values_submissiondefid_foreign FOREIGN KEY ("submissionDefId") REFERENCES submission_defs(id) ON DELETE CASCADE;
ALTER TABLE client_audits
  ADD CONSTRAINT client_audits_blobid_foreign FOREIGN KEY ("blobId") REFERENCES blobs(id);
ALTER TABLE comments
  ADD CONSTRAINT comments_actorid_foreign FOREIGN KEY ("actorId") REFERENCES actors(id),
  ADD CONSTRAINT comments_submissionid_foreign FOREIGN KEY ("submissionId") REFERENCES submissions(id) ON DELETE CASCADE;
ALTER TABLE submission_field_extract_geo_cache
  ADD CONSTRAINT submission_field_extract_geo_cache_submission_def_id_fkey FOREIGN KEY (submission_def_id) REFERENCES submission_defs(id) ON DELETE CASCADE;
ALTER TABLE datasets
  ADD CONSTRAINT datasets_projectid_foreign FOREIGN KEY ("projectId") REFERENCES projects(id);
ALTER TABLE ds_properties
  ADD CONSTRAINT ds_properties_datasetid_foreign FOREIGN KEY ("datasetId") REFERENCES datasets(id) ON DELETE CASCADE;
ALTER TABLE dataset_form_defs
  ADD CONSTRAINT dataset_form_defs_datasetid_foreign FOREIGN KEY ("datasetId") REFERENCES datasets(id) ON DELETE CASCADE,
  ADD CONSTRAINT dataset_form_defs_formdefid_foreign FOREIGN KEY ("formDefId") REFERENCES form_defs(id) ON DELETE CASCADE;
ALTER TABLE ds_property_fields
  ADD CONSTRAINT ds_property_fields_dspropertyid_foreign FOREIGN KEY ("dsPropertyId") REFERENCES ds_properties(id) ON DELETE CASCADE;
ALTER TABLE entities
  ADD CONSTRAINT entities_createdby_foreign FOREIGN KEY ("creatorId") REFERENCES actors(id),
  ADD CONSTRAINT entities_datasetid_foreign FOREIGN KEY ("datasetId") REFERENCES datasets(id) ON DELETE CASCADE;
ALTER TABLE entity_def_sources
  ADD CONSTRAINT entity_def_sources_auditid_foreign FOREIGN KEY ("auditId") REFERENCES audits(id) ON DELETE SET NULL,
  ADD CONSTRAINT entity_def_sources_submissiondefid_foreign FOREIGN KEY ("submissionDefId") REFERENCES submission_defs(id) ON DELETE SET NULL;
ALTER TABLE entity_defs
  ADD CONSTRAINT entity_defs_entityid_foreign FOREIGN KEY ("entityId") REFERENCES entities(id) ON DELETE CASCADE,
  ADD CONSTRAINT entity_defs_sourceid_foreign FOREIGN KEY ("sourceId") REFERENCES entity_def_sources(id);
ALTER TABLE entity_submission_backlog
  ADD CONSTRAINT fk_audit_id FOREIGN KEY ("auditId") REFERENCES audits(id) ON DELETE CASCADE,
  ADD CONSTRAINT fk_submission_defs FOREIGN KEY ("submissionDefId") REFERENCES submission_defs(id) ON DELETE CASCADE,
  ADD CONSTRAINT fk_submissions FOREIGN KEY ("submissionId") REFERENCES submissions(id) ON DELETE CASCADE;
ALTER TABLE audits
  ADD CONSTRAINT audits_acteeid_foreign FOREIGN KEY ("acteeId") REFERENCES actees(id),
  ADD CONSTRAINT audits_actorid_foreign FOREIGN KEY ("actorId") REFERENCES actors(id);
ALTER TABLE config
  ADD CONSTRAINT config_blobid_foreign FOREIGN KEY ("blobId") REFERENCES blobs(id);

-- Checks that Central leaves to triggers. The codes are those that its API translates.
CREATE FUNCTION check_email() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM users u JOIN actors a ON a.id = u."actorId"
             WHERE u.email = NEW.email AND a."deletedAt" IS NULL AND a.id <> NEW."actorId") THEN
    RAISE EXCEPTION 'ODK01:%', NEW.email;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER check_email BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION check_email();

CREATE FUNCTION check_form_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce(NEW.state, '') NOT IN ('open', 'closing', 'closed') THEN
    RAISE EXCEPTION 'ODK03:%', NEW.state;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER check_form_state BEFORE INSERT OR UPDATE ON forms FOR EACH ROW EXECUTE FUNCTION check_form_state();

CREATE FUNCTION check_review_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW."reviewState" NOT IN ('hasIssues', 'edited', 'approved', 'rejected') THEN
    RAISE EXCEPTION 'ODK03:%', NEW."reviewState";
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER check_review_state BEFORE INSERT OR UPDATE ON submissions FOR EACH ROW EXECUTE FUNCTION check_review_state();

-- Each committed change of a submission gets the next event number.
INSERT INTO current_event (event) VALUES (0);
CREATE FUNCTION get_event() RETURNS bigint LANGUAGE sql AS $$
  UPDATE current_event SET event = event + 1 RETURNING event
$$;
CREATE FUNCTION eventstamp_submissions_triggerfunction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE submissions SET event = get_event() WHERE id = NEW.id;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER set_eventstamp_submissions_at_commit AFTER INSERT OR UPDATE ON submissions
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.event IS NULL)
  EXECUTE FUNCTION eventstamp_submissions_triggerfunction();
CREATE FUNCTION blank_submissions_event_triggerfunction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.event := NULL;
  RETURN NEW;
END $$;
CREATE TRIGGER blank_submissions_event_on_update BEFORE UPDATE ON submissions
  FOR EACH ROW WHEN (NEW.event IS NOT NULL AND OLD.event IS NOT NULL)
  EXECUTE FUNCTION blank_submissions_event_triggerfunction();

-- An aggregate, since a dump of Central has one: a digest of a column, in the order of its rows.
CREATE FUNCTION hash_aggregate_state_transition_func(state text, additional_value anyelement) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT md5(state || coalesce(md5(additional_value::text), 'null')) $$;
CREATE AGGREGATE md5_hash_agg(anyelement) (
  SFUNC = hash_aggregate_state_transition_func, STYPE = text, SSPACE = 32, INITCOND = '00000000000000000000000000000000');

-- What a fresh Central holds.
INSERT INTO actees (id, species) VALUES ('*', '*'), ('actor', '*'), ('group', '*'), ('user', '*'), ('form', '*'),
  ('submission', '*'), ('field_key', '*'), ('config', '*'), ('project', '*'), ('role', '*'), ('assignment', '*'), ('audit', '*');
INSERT INTO roles (id, name, system, "createdAt", verbs)
SELECT id, name, system, created, to_jsonb(regexp_split_to_array(btrim(verbs, E' \n'), '\s+')) FROM (VALUES
  (1, 'Administrator', 'admin', clock_timestamp(), '
    config.read field_key.create field_key.delete field_key.list form.create form.delete form.list form.read
    form.update project.create project.delete project.read project.update session.end submission.create
    submission.read submission.list user.create user.list user.password.invalidate user.read user.update
    role.create role.update role.delete assignment.list assignment.create assignment.delete user.delete
    audit.read public_link.create public_link.list public_link.read public_link.update public_link.delete
    backup.run config.set analytics.read form.restore dataset.list entity.list dataset.read entity.read
    entity.create entity.update dataset.update entity.delete submission.update dataset.create
    submission.delete submission.restore entity.restore dataset.delete'),
  (2, 'App User', 'app-user', clock_timestamp(), '
    open_form.read submission.create'),
  (3, 'Password Reset Token', 'pwreset', clock_timestamp(), '
    user.password.reset'),
  (5, 'Project Manager', 'manager', NULL, '
    project.read project.update project.delete form.create form.delete form.list form.read form.update
    submission.create submission.read submission.list field_key.create field_key.delete field_key.list
    assignment.list assignment.create assignment.delete public_link.create public_link.list public_link.read
    public_link.update public_link.delete session.end form.restore dataset.list entity.list dataset.read
    entity.read entity.create entity.update dataset.update entity.delete submission.update dataset.create
    submission.delete submission.restore entity.restore dataset.delete'),
  (6, 'Project Viewer', 'viewer', NULL, '
    project.read form.list form.read submission.read submission.list dataset.list entity.list dataset.read
    entity.read'),
  (7, 'Form Viewer (system internal)', 'formview', NULL, '
    open_form.read'),
  (8, 'Data Collector', 'formfill', NULL, '
    project.read open_form.list open_form.read submission.create'),
  (9, 'Public Link', 'pub-link', clock_timestamp(), '
    open_form.read submission.create')
) AS r (id, name, system, created, verbs);
SELECT setval('roles_id_seq', max(id)) FROM roles;
