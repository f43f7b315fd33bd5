// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { createHash, randomUUID } = require('node:crypto');
const { parseMultipart } = require('../http/multipart');
const problem = require('../http/problem');
const { blobResponse } = require('../external/blobs');
const { audit } = require('../model/audits');
const { buffered } = require('../util/stream');
const { formFor } = require('./forms');

const LIMIT = 100 * 1024 * 1024;
const SUBMISSION = `s."instanceId", s."submitterId", s."deviceId", s."createdAt", s."updatedAt", s."deletedAt", s."reviewState",
  d."userAgent", d."instanceName", jsonb_build_object('instanceId', d."instanceId", 'instanceName', d."instanceName",
  'submitterId', d."submitterId", 'deviceId', d."deviceId", 'userAgent', d."userAgent", 'createdAt', d."createdAt", 'current', true) AS "currentVersion"`;
const FROM = 'submissions s JOIN submission_defs d ON d."submissionId" = s.id AND d.current';
const LIVE = 's."formId" = $1 AND s."deletedAt" IS NULL AND NOT s.draft';

const count = (value, field) => {
  if (value === undefined) return null;
  if (!/^\d+$/.test(value)) throw problem.invalidDataTypeOfParameter({ field, expected: 'integer' });
  return Number(value);
};

// Text of the XML as far as the stand-in needs it. Entities are those that XML itself names.
const ENTITIES = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };
const unescape = (text) => text.replace(/&(lt|gt|amp|quot|apos);/g, (_, name) => ENTITIES[name]);
const tagText = (xml, tag) => {
  const match = new RegExp(`<(?:\\w+:)?${tag}(?:\\s[^>]*)?>([^<]*)</`).exec(xml);
  return match === null ? undefined : unescape(match[1]).trim();
};
const rootAttribute = (xml, name) => {
  const root = /<(?![?!])[^>]*>/.exec(xml)?.[0] ?? '';
  const match = new RegExp(`\\s${name}="([^"]*)"`).exec(root);
  return match === null ? undefined : unescape(match[1]);
};

const ensureBlob = async (query, content, contentType) => {
  const digest = (name) => createHash(name).update(content).digest('hex');
  const type = contentType || 'application/octet-stream';
  const has = await query("SELECT FROM pg_attribute WHERE attrelid = 'blobs'::regclass AND attname = 'size'");
  const sized = has.rowCount > 0 ? [', size', `, ${content.length}`] : ['', ''];
  const { rows } = await query(`
    INSERT INTO blobs (sha, md5, content, "contentType"${sized[0]}) VALUES ($1, $2, $3, $4${sized[1]})
    ON CONFLICT (sha, "contentType") DO UPDATE SET md5 = excluded.md5 RETURNING id`, [digest('sha1'), digest('md5'), content, type]);
  return rows[0].id;
};

const attach = async (query, defId, name, blobId) => query(`
  INSERT INTO submission_attachments ("submissionDefId", name, "blobId", "isClientAudit") VALUES ($1, $2, $3, $4)
  ON CONFLICT ("submissionDefId", name) DO UPDATE SET "blobId" = coalesce(excluded."blobId", submission_attachments."blobId")`,
[defId, name, blobId, name === 'audit.csv']);

// Names of the files that the XML mentions in fields which the form's schema calls binary.
const expectedFiles = async (query, form, xml) => {
  const { rows } = await query(`
    SELECT f.name FROM form_fields f JOIN form_defs d ON d."schemaId" = f."schemaId" WHERE d.id = $1 AND f."binary"`, [form.currentDefId]);
  return rows.map(({ name }) => tagText(xml, name)).filter((value) => value);
};

// Stores a submission as Central does. Returns the row; an identical one sent again only adds its files.
const store = async (context, form, xml, files, identicalIsFine) => {
  const { query, auth, headers, args } = context;
  if (form.state === 'closed') throw problem.notAcceptingSubmissions();
  if (rootAttribute(xml, 'id') !== form.xmlFormId) {
    throw problem.unexpectedValue({ field: 'form ID', value: rootAttribute(xml, 'id'), reason: 'did not match the form ID in the URL' });
  }
  const version = rootAttribute(xml, 'version') ?? '';
  const def = await query('SELECT id FROM form_defs WHERE "formId" = $1 AND version = $2 AND "publishedAt" IS NOT NULL ORDER BY id DESC LIMIT 1', [form.id, version]);
  if (def.rows.length === 0) throw problem.formVersionNotFound({ formVersion: version });
  const instanceId = tagText(xml, 'instanceID') ?? `uuid:${randomUUID()}`;

  const old = await query(`SELECT d.id, d.xml FROM ${FROM} WHERE ${LIVE} AND s."instanceId" = $2`, [form.id, instanceId]);
  let defId = old.rows[0]?.id;
  if (defId !== undefined) {
    if (!identicalIsFine) throw problem.uniquenessViolation({ fields: 'instanceID', values: instanceId });
    if (old.rows[0].xml !== xml) throw problem.xmlConflict();
  } else {
    const submission = await query(`
      INSERT INTO submissions ("formId", "instanceId", "createdAt", "submitterId", "deviceId", draft)
      VALUES ($1, $2, clock_timestamp(), $3, $4, false) RETURNING id`, [form.id, instanceId, auth.actor.id, args.deviceID ?? null]);
    const inserted = await query(`
      INSERT INTO submission_defs ("submissionId", xml, "formDefId", "submitterId", "createdAt", current, root, "instanceId", "instanceName", "userAgent", "deviceId")
      VALUES ($1, $2, $3, $4, clock_timestamp(), true, true, $5, $6, $7, $8) RETURNING id`,
    [submission.rows[0].id, xml, def.rows[0].id, auth.actor.id, instanceId, tagText(xml, 'instanceName') ?? null, headers['user-agent'] ?? null, args.deviceID ?? null]);
    defId = inserted.rows[0].id;
    for (const name of await expectedFiles(query, form, xml)) await attach(query, defId, name, null);
    await audit(query, {
      actorId: auth.actor.id, action: 'submission.create', acteeId: form.acteeId,
      details: { instanceId, submissionId: submission.rows[0].id, submissionDefId: defId },
    });
  }
  for (const { filename, type, content } of files) await attach(query, defId, filename, await ensureBlob(query, content, type));
  const { rows } = await query(`SELECT ${SUBMISSION} FROM ${FROM} WHERE ${LIVE} AND s."instanceId" = $2`, [form.id, instanceId]);
  return rows[0];
};

// The XML and the files of a request: plain XML, or multipart with xml_submission_file as OpenRosa has it.
const receive = async (context) => {
  const type = context.headers['content-type'] ?? '';
  const body = await buffered(context.request, LIMIT, problem.requestTooLarge);
  if (!/^multipart\/form-data/i.test(type)) return { xml: body.toString('utf8'), files: [] };
  const parts = parseMultipart(type, body);
  const xml = parts.find((part) => part.name === 'xml_submission_file');
  if (xml === undefined) throw problem.missingMultipartField({ field: 'xml_submission_file' });
  return { xml: xml.content.toString('utf8'), files: parts.filter((part) => part !== xml && part.filename) };
};

const escape = (text) => text.replace(/[<>&]/g, (c) => ({ '<': '&lt;', '>': '&gt;', '&': '&amp;' }[c]));
const openRosa = (response, status, nature, message) => {
  response.statusCode = status;
  response.setHeader('Content-Type', 'text/xml; charset=utf-8');
  response.setHeader('X-OpenRosa-Version', '1.0');
  return Buffer.from(`<OpenRosaResponse xmlns="http://openrosa.org/http/response"><message nature="${nature}">${escape(message)}</message></OpenRosaResponse>`);
};

module.exports = (service) => {
  const BASE = '/projects/:projectId/forms/:xmlFormId/submissions';

  service.route('POST', BASE, async (context) => {
    const form = await formFor(context, 'submission.create');
    const { xml, files } = await receive(context);
    return store(context, form, xml, files, false);
  }, { raw: true });

  // The way of ODK Collect: the form is named in the XML alone.
  service.route('POST', '/projects/:projectId/submission', async (context, response) => {
    if (context.headers['x-openrosa-version'] !== '1.0') {
      throw problem.invalidHeader({ field: 'X-OpenRosa-Version', value: context.headers['x-openrosa-version'] });
    }
    const { xml, files } = await receive(context);
    const params = { ...context.params, xmlFormId: rootAttribute(xml, 'id') ?? '' };
    await store(context, await formFor({ ...context, params }, 'submission.create'), xml, files, true);
    return openRosa(response, 201, 'submit_success', 'full submission upload was successful!');
  }, { raw: true });

  service.route('GET', BASE, async (context) => {
    const form = await formFor(context, 'submission.list');
    const { rows } = await context.query(`
      SELECT ${SUBMISSION} FROM ${FROM} WHERE ${LIVE} ORDER BY s."createdAt" DESC, s.id DESC LIMIT $2 OFFSET $3`,
    [form.id, count(context.args.limit, 'limit'), count(context.args.offset, 'offset') ?? 0]);
    return rows;
  });

  // OData as far as counting goes: ?$top=0&$count=true.
  service.route('GET', '/projects/:projectId/forms/:xmlFormId.svc/Submissions', async (context) => {
    const form = await formFor(context, 'submission.list');
    const total = await context.query(`SELECT count(*) AS n FROM submissions s WHERE ${LIVE}`, [form.id]);
    const { rows } = await context.query(`SELECT s."instanceId" AS "__id" FROM ${FROM} WHERE ${LIVE} ORDER BY s."createdAt" DESC, s.id DESC LIMIT $2 OFFSET $3`,
      [form.id, count(context.args.$top, '$top'), count(context.args.$skip, '$skip') ?? 0]);
    const path = `${context.config.env.domain}/v1/projects/${form.projectId}/forms/${encodeURIComponent(form.xmlFormId)}.svc`;
    return {
      value: rows, '@odata.context': `${path}/$metadata#Submissions`,
      ...(context.args.$count === 'true' ? { '@odata.count': total.rows[0].n } : {}),
    };
  });

  const submissionFor = async (context) => {
    const form = await formFor(context, 'submission.read');
    const { rows } = await context.query(`SELECT ${SUBMISSION}, d.id AS "defId", d.xml FROM ${FROM} WHERE ${LIVE} AND s."instanceId" = $2`,
      [form.id, context.params.instanceId]);
    if (rows.length === 0) throw problem.notFound();
    return rows[0];
  };

  service.route('GET', `${BASE}/:instanceId.xml`, async (context, response) => {
    const { xml } = await submissionFor(context);
    response.setHeader('Content-Type', 'application/xml');
    return Buffer.from(xml);
  });

  service.route('GET', `${BASE}/:instanceId`, async (context) => {
    const { xml, defId, ...rest } = await submissionFor(context);
    return rest;
  });

  service.route('GET', `${BASE}/:instanceId/attachments`, async (context) => {
    const { defId } = await submissionFor(context);
    const { rows } = await context.query('SELECT name, "blobId" IS NOT NULL AS exists FROM submission_attachments WHERE "submissionDefId" = $1 ORDER BY name', [defId]);
    return rows;
  });

  service.route('GET', `${BASE}/:instanceId/attachments/:name`, async (context, response) => {
    const { defId } = await submissionFor(context);
    const { rows } = await context.query(`
      SELECT b.* FROM submission_attachments a JOIN blobs b ON b.id = a."blobId" WHERE a."submissionDefId" = $1 AND a.name = $2`,
    [defId, context.params.name]);
    if (rows.length === 0) throw problem.notFound();
    return blobResponse(context, response, context.params.name, rows[0]);
  });

  service.route('POST', `${BASE}/:instanceId/attachments/:name`, async (context) => {
    const form = await formFor(context, 'submission.update');
    const { rows } = await context.query(`SELECT d.id FROM ${FROM} WHERE ${LIVE} AND s."instanceId" = $2`, [form.id, context.params.instanceId]);
    const content = await buffered(context.request, LIMIT, problem.requestTooLarge);
    const known = rows.length === 0 ? { rowCount: 0 } : await context.query(
      'SELECT FROM submission_attachments WHERE "submissionDefId" = $1 AND name = $2', [rows[0].id, context.params.name],
    );
    if (known.rowCount === 0) throw problem.notFound();
    await attach(context.query, rows[0].id, context.params.name, await ensureBlob(context.query, content, context.headers['content-type']));
    return { success: true };
  }, { raw: true });
};
