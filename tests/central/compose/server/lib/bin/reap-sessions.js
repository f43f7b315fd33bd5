// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { makePool } = require('../util/db');

const pool = makePool(1);
pool.query('DELETE FROM sessions WHERE "expiresAt" < now()')
  .then(({ rowCount }) => console.log(`sessions reaped: ${rowCount}`))
  .finally(() => pool.end());
