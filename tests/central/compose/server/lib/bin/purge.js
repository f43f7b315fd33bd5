// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// What was deleted more than 30 days ago goes for good, and then the blobs that nothing refers to: row first, object
// at once after it, which is why a restored copy with production's S3 keys would delete production's objects.

const s3 = require('../external/s3');
const { audit } = require('../model/audits');
const config = require('../util/config');
const { makePool } = require('../util/db');

const store = config.external.s3blobStore;
const AGED = "\"deletedAt\" < current_timestamp - interval '30 days'";
const UNATTACHED = `NOT EXISTS (SELECT FROM client_audits WHERE "blobId" = b.id)
  AND NOT EXISTS (SELECT FROM submission_attachments WHERE "blobId" = b.id)
  AND NOT EXISTS (SELECT FROM form_attachments WHERE "blobId" = b.id)
  AND NOT EXISTS (SELECT FROM form_defs WHERE "xlsBlobId" = b.id)
  AND NOT EXISTS (SELECT FROM config WHERE "blobId" = b.id)`;

const main = async () => {
  const pool = makePool(1);
  try {
    const submissions = await pool.query(`DELETE FROM submissions WHERE ${AGED}`);
    const forms = await pool.query(`DELETE FROM forms WHERE ${AGED}`);
    if (submissions.rowCount > 0) await audit((t, v) => pool.query(t, v), { action: 'submission.purge', details: { submissionsDeleted: submissions.rowCount } });
    const enabled = s3.enabled(store);
    await pool.query(`DELETE FROM blobs b WHERE ${enabled ? "s3_status <> 'uploaded' AND" : ''} ${UNATTACHED}`);
    let objects = 0;
    while (enabled) {
      const { rows } = await pool.query(`
        DELETE FROM blobs WHERE id IN (SELECT b.id FROM blobs b WHERE s3_status = 'uploaded' AND ${UNATTACHED} LIMIT 100) RETURNING id, sha`);
      if (rows.length === 0) break;
      for (const blob of rows) await s3.remove(store, blob);
      objects += rows.length;
    }
    console.log(`Submissions purged: ${submissions.rowCount}, forms: ${forms.rowCount}, S3 objects: ${objects}`);
  } finally {
    await pool.end();
  }
};

main().catch((error) => { console.error(error.message); process.exit(1); });
