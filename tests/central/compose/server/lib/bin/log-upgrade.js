// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Notes the version in `audits` (action upgrade.server) when it is not the one noted last. A dump's Central version
// is read from there.

const { isDeepStrictEqual } = require('node:util');
const { audit } = require('../model/audits');
const { makePool } = require('../util/db');

const main = async () => {
  const tags = JSON.parse(process.env.SENTRY_TAGS || '{}');
  const details = { version: tags['version.central'], server: process.env.SENTRY_RELEASE, client: tags['version.client'] };
  if (!details.version) return;
  const pool = makePool(1);
  try {
    const query = (text, values) => pool.query(text, values);
    const { rows } = await query("SELECT details FROM audits WHERE action = 'upgrade.server' ORDER BY \"loggedAt\" DESC, id DESC LIMIT 1");
    if (!isDeepStrictEqual(rows[0]?.details, details)) await audit(query, { action: 'upgrade.server', details, processed: false });
  } finally {
    await pool.end();
  }
};

main().catch((error) => { console.error(error); process.exit(1); });
