// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// odk-cmd: makes and promotes users, as Central's command of that name. Passwords come by stdin, one line.

const { randomUUID } = require('node:crypto');
const { audit } = require('../model/audits');
const bcrypt = require('../util/bcrypt');
const { makePool, transaction } = require('../util/db');

const USAGE = 'usage: odk-cmd --email EMAIL user-create | user-promote | user-set-password';

const line = async () => {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8').split(/\r?\n/)[0];
};

const passwordHash = async () => {
  const password = await line();
  if (password.length < 10) throw new Error('The password or passphrase provided does not meet the required length.');
  if (Buffer.byteLength(password) > 72) throw new Error('The password or passphrase provided exceeds the maximum length.');
  return bcrypt.hash(password);
};

const find = async (query, email) => {
  const { rows } = await query(`
    SELECT a.id, a."acteeId" FROM users u JOIN actors a ON a.id = u."actorId" WHERE u.email = $1 AND a."deletedAt" IS NULL`, [email]);
  if (rows.length === 0) throw new Error(`There is no user ${email}.`);
  return rows[0];
};

const commands = {
  'user-create': async (query, email) => {
    const hash = await passwordHash();
    const acteeId = randomUUID();
    await query("INSERT INTO actees (id, species) VALUES ($1, 'user')", [acteeId]);
    const { rows } = await query(`
      INSERT INTO actors (type, "acteeId", "displayName", "createdAt") VALUES ('user', $1, left($2, 64), clock_timestamp()) RETURNING id`, [acteeId, email]);
    await query('INSERT INTO users ("actorId", email, password) VALUES ($1, $2, $3)', [rows[0].id, email, hash]);
    await audit(query, { action: 'user.create', acteeId, details: { data: { actorId: rows[0].id, email, password: null } } });
  },
  'user-promote': async (query, email) => {
    const { id, acteeId } = await find(query, email);
    const { rows } = await query(`
      INSERT INTO assignments ("actorId", "roleId", "acteeId") SELECT $1, id, '*' FROM roles WHERE system = 'admin'
      ON CONFLICT DO NOTHING RETURNING "roleId"`, [id]);
    if (rows.length > 0) {
      await audit(query, { action: 'user.assignment.create', acteeId, details: { roleId: rows[0].roleId, grantedActeeId: '*' } });
    }
  },
  'user-set-password': async (query, email) => {
    const { id, acteeId } = await find(query, email);
    await query('UPDATE users SET password = $2 WHERE "actorId" = $1', [id, await passwordHash()]);
    await audit(query, { action: 'user.update', acteeId, details: { data: { password: true } } });
  },
};

const main = async () => {
  const words = process.argv.slice(2);
  const at = words.findIndex((word) => word === '--email' || word === '-u');
  const email = at < 0 ? undefined : words.splice(at, 2)[1];
  const command = commands[words[0]];
  if (email === undefined || command === undefined) throw new Error(USAGE);
  const pool = makePool(1);
  try {
    await transaction(pool, (query) => command(query, email));
    console.log(JSON.stringify({ success: true }));
  } finally {
    await pool.end();
  }
};

main().catch((error) => { console.error(error.message); process.exit(1); });
