// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Migrations as knex runs them: two tables, a lock row, one batch for what is missing, and a refusal where the
// database knows a migration that this release does not have (a newer Central's database).

const { readFileSync, readdirSync } = require('node:fs');
const { join } = require('node:path');
const { makePool, transaction } = require('../util/db');

const model = join(__dirname, '../model');

const ensureTables = async (query) => {
  const { rows } = await query("SELECT to_regclass('knex_migrations') IS NOT NULL AS present");
  if (rows[0].present) return true;
  await query(`CREATE TABLE knex_migrations (
    id serial PRIMARY KEY, name varchar(255), batch integer, migration_time timestamptz(3))`);
  await query('CREATE TABLE knex_migrations_lock (index serial PRIMARY KEY, is_locked integer)');
  await query('INSERT INTO knex_migrations_lock (is_locked) VALUES (0)');
  return false;
};

const main = async () => {
  const pool = makePool(1);
  const files = readdirSync(join(model, 'migrations')).sort();
  try {
    // The base schema and its tables' names in one step: an interrupted first start begins anew.
    await transaction(pool, async (query) => {
      if (!(await ensureTables(query))) await query(readFileSync(join(model, 'schema.sql'), 'utf8'));
    });
    const done = (await pool.query('SELECT name FROM knex_migrations ORDER BY id')).rows.map((row) => row.name);
    const missing = done.filter((name) => !files.includes(name));
    if (missing.length > 0) {
      throw new Error(`The migration directory is corrupt, the following files are missing: ${missing.join(', ')}`);
    }
    const pending = files.filter((name) => !done.includes(name));
    if (pending.length === 0) return;
    const locked = await pool.query('UPDATE knex_migrations_lock SET is_locked = 1 WHERE is_locked = 0');
    if (locked.rowCount !== 1) throw new Error('Migration table is already locked');
    try {
      const { rows } = await pool.query('SELECT coalesce(max(batch), 0) + 1 AS batch FROM knex_migrations');
      for (const name of pending) {
        await transaction(pool, async (query) => {
          await require(join(model, 'migrations', name)).up(query);
          await query('INSERT INTO knex_migrations (name, batch, migration_time) VALUES ($1, $2, clock_timestamp())', [name, rows[0].batch]);
        });
      }
      console.log(`${pending.length} migrations, up to ${pending[pending.length - 1]}`);
    } finally {
      await pool.query('UPDATE knex_migrations_lock SET is_locked = 0');
    }
  } finally {
    await pool.end();
  }
};

main().catch((error) => {
  console.error('Error:', error.message, error.detail ? `(${error.detail})` : '');
  process.exit(1);
});
