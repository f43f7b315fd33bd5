// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { requireVerb } = require('../http/auth');
const problem = require('../http/problem');
const { blobResponse } = require('../external/blobs');
const { projectFor } = require('./projects');

const FORM = `f."projectId", f."xmlFormId", f.state, f."enketoId", f."enketoOnceId", f."webformsEnabled", f."createdAt",
  f."updatedAt", f."deletedAt", d."keyId", d.version, d.hash, d.sha, d.sha256, d."draftToken", d."publishedAt", d.name`;
const FROM = 'forms f LEFT JOIN form_defs d ON d.id = f."currentDefId"';

// The form with `f`'s internal columns, if it exists and the actor may do one of `verbs` on it.
const formFor = async (context, verbs) => {
  const { rows } = await context.query(`
    SELECT ${FORM}, f.id, f."acteeId", f."currentDefId", d.xml FROM ${FROM}
    WHERE f."projectId" = $1 AND f."xmlFormId" = $2 AND f."deletedAt" IS NULL`,
  [Number(context.params.projectId) || 0, context.params.xmlFormId]);
  if (rows.length === 0) throw problem.notFound();
  await requireVerb(context, verbs, rows[0].acteeId);
  return rows[0];
};

const forApi = ({ id, acteeId, currentDefId, xml, ...rest }) => rest;

const counted = async (query, form) => {
  const { rows } = await query(`
    SELECT count(*) AS submissions, max("createdAt") AS "lastSubmission" FROM submissions
    WHERE "formId" = $1 AND "deletedAt" IS NULL AND NOT draft`, [form.id]);
  return { ...forApi(form), ...rows[0] };
};

module.exports = (service) => {
  service.route('GET', '/projects/:projectId/forms', async (context) => {
    const project = await projectFor(context, ['form.list', 'open_form.list']);
    const { rows } = await context.query(`
      SELECT ${FORM}, f.id FROM ${FROM} WHERE f."projectId" = $1 AND f."deletedAt" IS NULL ORDER BY coalesce(d.name, f."xmlFormId"), f.id`,
    [project.id]);
    if (!context.extended) return rows.map(forApi);
    return Promise.all(rows.map((row) => counted(context.query, row)));
  });

  const READ = ['form.read', 'open_form.read'];
  service.route('GET', '/projects/:projectId/forms/:xmlFormId.xml', async (context, response) => {
    const form = await formFor(context, READ);
    response.setHeader('Content-Type', 'application/xml');
    return Buffer.from(form.xml ?? '');
  });

  service.route('GET', '/projects/:projectId/forms/:xmlFormId', async (context) => {
    const form = await formFor(context, READ);
    return context.extended ? counted(context.query, form) : forApi(form);
  });

  service.route('GET', '/projects/:projectId/forms/:xmlFormId/attachments', async (context) => {
    const form = await formFor(context, READ);
    const { rows } = await context.query(`
      SELECT a.name, a.type, a."updatedAt", b.md5 AS hash, a."blobId" IS NOT NULL AS "blobExists",
        a."datasetId" IS NOT NULL AS "datasetExists", (a."blobId" IS NOT NULL OR a."datasetId" IS NOT NULL) AS exists
      FROM form_attachments a LEFT JOIN blobs b ON b.id = a."blobId" WHERE a."formDefId" = $1 ORDER BY a.name`, [form.currentDefId]);
    return rows;
  });

  service.route('GET', '/projects/:projectId/forms/:xmlFormId/attachments/:name', async (context, response) => {
    const form = await formFor(context, READ);
    const { rows } = await context.query(`
      SELECT b.* FROM form_attachments a JOIN blobs b ON b.id = a."blobId" WHERE a."formDefId" = $1 AND a.name = $2`,
    [form.currentDefId, context.params.name]);
    if (rows.length === 0) throw problem.notFound();
    return blobResponse(context, response, context.params.name, rows[0]);
  });

  // What the frontend asks when a link /f/<enketoId> is opened; drafts have their own id.
  service.route('GET', '/form-links/:enketoId/form', async (context) => {
    const { rows } = await context.query(`
      SELECT ${FORM}, f.id, f."acteeId" FROM forms f JOIN form_defs d ON d.id IN (f."currentDefId", f."draftDefId")
      WHERE f."deletedAt" IS NULL AND $1 IN (f."enketoId", f."enketoOnceId", d."enketoId")
      ORDER BY d.id = f."currentDefId" DESC LIMIT 1`, [context.params.enketoId]);
    if (rows.length === 0) throw problem.notFound();
    await requireVerb(context, READ, rows[0].acteeId);
    return forApi(rows[0]);
  });
};
module.exports.formFor = formFor;
