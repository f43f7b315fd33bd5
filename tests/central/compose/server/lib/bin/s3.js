// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// node s3.js count-blobs STATUS | upload-pending [LIMIT] | reset-failed-to-pending, as in Central.

const s3 = require('../external/s3');
const { audit } = require('../model/audits');
const config = require('../util/config');
const { makePool, transaction } = require('../util/db');

const store = config.external.s3blobStore;

// Takes one pending blob. `failed` is committed when the upload throws; an empty one is `skipped`, never sent.
const uploadOne = (pool) => transaction(pool, async (query) => {
  const { rows } = await query(`
    UPDATE blobs SET s3_status = 'failed' WHERE id = (
      SELECT id FROM blobs WHERE s3_status = 'pending' LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) RETURNING *`);
  if (rows.length === 0) return { status: 'none' };
  const blob = rows[0];
  if (blob.content === null || blob.content.length === 0) {
    await query("UPDATE blobs SET s3_status = 'skipped' WHERE id = $1", [blob.id]);
    return { status: 'skipped' };
  }
  try {
    await s3.upload(store, blob);
  } catch (error) {
    return { status: 'failed', error };
  }
  await query("UPDATE blobs SET s3_status = 'uploaded', content = NULL WHERE id = $1", [blob.id]);
  return { status: 'uploaded' };
});

const commands = {
  'count-blobs': async (pool, status) => {
    // in_progress is no value of the column but a lock on the row; the extension is absent in a default install.
    const { rows } = status === 'in_progress'
      ? await pool.query("SELECT count(*) AS n FROM pgrowlocks('blobs')")
      : await pool.query('SELECT count(*) AS n FROM blobs WHERE s3_status = $1', [status]);
    console.log(rows[0].n);
  },
  'reset-failed-to-pending': async (pool) => {
    const { rowCount } = await pool.query("UPDATE blobs SET s3_status = 'pending' WHERE s3_status = 'failed'");
    await audit((t, v) => pool.query(t, v), { action: 'blobs.s3.failed-to-pending', details: { updated: rowCount } });
    console.log(`${rowCount} blobs marked for re-uploading.`);
  },
  'upload-pending': async (pool, limit) => {
    if (!s3.enabled(store)) return;
    const tally = { uploaded: 0, failed: 0, skipped: 0 };
    const started = Date.now();
    let failure;
    for (let left = limit === undefined ? Infinity : Number(limit); left > 0 && failure === undefined;) {
      const { status, error } = await uploadOne(pool);
      if (status === 'none') break;
      tally[status] += 1;
      if (status === 'uploaded') left -= 1;
      failure = error;
    }
    if (Object.values(tally).some((n) => n > 0)) {
      await audit((t, v) => pool.query(t, v), { action: 'blobs.s3.upload', details: { ...tally, duration: Date.now() - started } });
    }
    console.log(`uploaded ${tally.uploaded}, skipped ${tally.skipped}, failed ${tally.failed}`);
    if (failure !== undefined) throw failure;
  },
};

const main = async () => {
  const [name, argument] = process.argv.slice(2);
  if (commands[name] === undefined) throw new Error(`usage: node s3.js ${Object.keys(commands).join(' | ')}`);
  const pool = makePool(1);
  try { await commands[name](pool, argument); } finally { await pool.end(); }
};

main().catch((error) => { console.error(error.message); process.exit(1); });
