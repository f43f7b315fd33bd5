// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Direct Backup, the format of Central v2026.2: pg_dump's custom format inside openssl-enc (ChaCha20, PBKDF2).
// Facts: central-backend lib/util/backup.js.

const { execFile, execFileSync, spawn } = require('node:child_process');
const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const { promisify } = require('node:util');
const { finished } = require('./process');
const { peek, sequence } = require('./stream');

const DECRYPT = ['enc', '-d', '-pbkdf2', '-pass', 'env:ODK_BACKUP_PASSPHRASE', '-chacha20'];

// The child's environment. Node turns any value into a string here: null becomes "null", 5 becomes "5".
const withPassphrase = (passphrase) => ({ ...process.env, ODK_BACKUP_PASSPHRASE: passphrase });

const pgDumpMajor = async () => {
  const { stdout } = await promisify(execFile)('pg_dump', ['--version'], { encoding: 'utf-8' });
  const match = /^pg_dump \(PostgreSQL\) (\d+)/.exec(stdout);
  return match === null ? 0 : Number(match[1]);
};

// Central asks any client >= 15 for zstd, but 15 knows zstd only from 16 on, and stops. Stock Centrals have the
// 14 client and so send gzip 6; Debian 12's client is 15 and is made to send what they do.
const compression = (major) => (major >= 16 ? 'zstd:level=1' : '6');

// Yields nothing, but fails the stream that it ends when the child has failed.
const failIfChildFailed = async function* failIfChildFailed(child) {
  await finished(child);
  yield '';
};

const encryptedDump = async (passphrase = '') => {
  const compress = compression(await pgDumpMajor());
  const child = spawn('/bin/bash', [
    '-c',
    `set -o pipefail; pg_dump --no-password --format=custom --compress=${compress}`
      + ' | openssl enc -chacha20 -pbkdf2 -pass env:ODK_BACKUP_PASSPHRASE',
  ], { env: withPassphrase(passphrase), stdio: ['ignore', 'pipe', 'inherit'] });
  return sequence(child.stdout, Readable.from(failIfChildFailed(child)));
};

// Decrypts the first bytes; a wrong passphrase (or no backup at all) is an error with exitcode 100.
const checkedForPassphrase = async (stream, passphrase = '') => {
  const [start, whole] = await peek(stream, 128);
  const plain = execFileSync('openssl', DECRYPT, { input: start, env: withPassphrase(passphrase) });
  if (plain.subarray(0, 5).toString('ascii') !== 'PGDMP') {
    const error = new Error('Incorrect passphrase supplied for decryption');
    error.exitcode = 100;
    throw error;
  }
  return whole;
};

// The SQL that pg_restore makes of an encrypted dump. As upstream: no pipefail here.
const restoreSql = (stream, passphrase = '') => {
  const child = spawn('/bin/bash', [
    '-c', `openssl ${DECRYPT.join(' ')} | pg_restore --exit-on-error --no-owner --no-acl --file=-`,
  ], { env: withPassphrase(passphrase), stdio: ['pipe', 'pipe', 'inherit'] });
  pipeline(stream, child.stdin).catch((error) => console.error(error.message));
  return child;
};

const PREAMBLE = `
  -- Other sessions would block what follows; a role that is no superuser can only end its own.
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid();
  \\set ON_ERROR_STOP on
  BEGIN;
  DROP OWNED BY CURRENT_USER CASCADE;
  CREATE SCHEMA IF NOT EXISTS public;
`;

// Feeds psql. Like upstream it appends COMMIT whatever pg_restore came to: on a bad archive that commits the drop.
const applySql = (sql) => {
  const child = spawn('psql', ['--no-password', '--no-psqlrc', '--echo-all'], { stdio: ['pipe', 'inherit', 'inherit'] });
  pipeline(sequence(Readable.from(PREAMBLE), sql, Readable.from('\n  COMMIT;\n')), child.stdin)
    .catch((error) => {
      child.stoppedReading = true;
      console.error(error.message);
    });
  return child;
};

module.exports = { encryptedDump, checkedForPassphrase, restoreSql, applySql };
