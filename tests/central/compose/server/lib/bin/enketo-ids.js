// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Gives forms and drafts without Enketo ids theirs, by asking Enketo as Central's worker does. Ids that a form has
// are never asked for again: links that Enketo has lost do not come back by themselves.

const http = require('node:http');
const config = require('../util/config');
const { makePool } = require('../util/db');

const register = (server, formId) => new Promise((resolve, reject) => {
  const body = new URLSearchParams({ server_url: server, form_id: formId }).toString();
  const url = new URL(`${config.enketo.url}/api/v2/survey/all`);
  const request = http.request(url, {
    method: 'POST', auth: `${config.enketo.apiKey}:`, timeout: 10000,
    headers: { 'Content-Type': 'application/x-www-form-urlencoded', 'Content-Length': Buffer.byteLength(body) },
  }, async (response) => {
    const chunks = [];
    for await (const chunk of response) chunks.push(chunk);
    if (![200, 201].includes(response.statusCode)) { reject(new Error(`Enketo answered ${response.statusCode}`)); return; }
    const answer = JSON.parse(Buffer.concat(chunks));
    resolve({ enketoId: answer.enketo_id, enketoOnceId: /\/([:a-z0-9]+)$/i.exec(answer.single_once_url)[1] });
  });
  request.on('error', reject);
  request.end(body);
});

const main = async () => {
  const pool = makePool(1);
  const { domain } = config.env;
  try {
    const forms = await pool.query(`
      SELECT id, "projectId", "xmlFormId" FROM forms
      WHERE "currentDefId" IS NOT NULL AND ("enketoId" IS NULL OR "enketoOnceId" IS NULL) ORDER BY id`);
    for (const form of forms.rows) {
      const { enketoId, enketoOnceId } = await register(`${domain}/v1/projects/${form.projectId}`, form.xmlFormId);
      await pool.query('UPDATE forms SET "enketoId" = $2, "enketoOnceId" = $3 WHERE id = $1', [form.id, enketoId, enketoOnceId]);
    }
    const drafts = await pool.query(`
      SELECT d.id, d."draftToken", f."projectId", f."xmlFormId" FROM forms f JOIN form_defs d ON d.id = f."draftDefId"
      WHERE d."enketoId" IS NULL AND d."draftToken" IS NOT NULL ORDER BY d.id`);
    for (const draft of drafts.rows) {
      const path = `/v1/test/${draft.draftToken}/projects/${draft.projectId}/forms/${encodeURIComponent(draft.xmlFormId)}/draft`;
      const { enketoId } = await register(domain + path, draft.xmlFormId);
      await pool.query('UPDATE form_defs SET "enketoId" = $2 WHERE id = $1', [draft.id, enketoId]);
    }
    console.log(`Enketo ids: ${forms.rowCount} forms, ${drafts.rowCount} drafts`);
  } finally {
    await pool.end();
  }
};

main().catch((error) => { console.error(error.message); process.exit(1); });
