// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// The database, reached as libpq does: by the PG* variables.

const { Pool, types } = require('pg');

// bigint as number: counts and events stay far below 2^53 here.
types.setTypeParser(20, Number);

const makePool = (size = 10) => {
  const pool = new Pool({ max: size, application_name: process.env.PGAPPNAME, connectionTimeoutMillis: 5000 });
  // Sessions may be ended from outside, by a restore for one; the next query gets a new connection.
  pool.on('connect', (client) => client.on('error', () => {}));
  pool.on('error', (error) => console.error('database connection lost:', error.message));
  return pool;
};

// Runs `work(query)` in one transaction.
const transaction = async (pool, work) => {
  const client = await pool.connect();
  let broken;
  try {
    await client.query('BEGIN');
    const result = await work((text, values) => client.query(text, values));
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch((failure) => { broken = failure; });
    throw error;
  } finally {
    client.release(broken);
  }
};

module.exports = { makePool, transaction };
