// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { requireVerb } = require('../http/auth');
const problem = require('../http/problem');

const PUBLIC = ['login-appearance', 'logo', 'hero-image'];
const forApi = ({ key, value, blobId, setAt }) => ({ key, value: blobId === null ? value : { blobExists: true }, setAt });

module.exports = (service) => {
  service.route('GET', '/config/public', async ({ query }) => {
    const { rows } = await query('SELECT * FROM config WHERE key = ANY($1)', [PUBLIC]);
    return Object.fromEntries(rows.map((row) => [row.key, forApi(row)]));
  }, { anonymous: true });

  service.route('GET', '/config/:key', async (context) => {
    await requireVerb(context, 'config.read', 'config');
    const { rows } = await context.query('SELECT * FROM config WHERE key = $1', [context.params.key]);
    if (rows.length === 0) throw problem.notFound();
    return forApi(rows[0]);
  });
};
