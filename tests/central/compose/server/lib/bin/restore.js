// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// node restore.js PATH_TO_ARCHIVE PASSPHRASE: wipes the database and restores a Direct Backup into it, with the
// exit codes, messages and faults of central-backend v2026.2 (lib/bin/restore.js). Left out: reading legacy .zip.

const { createReadStream } = require('node:fs');
const { applySql, checkedForPassphrase, restoreSql } = require('../util/backup');
const { finished } = require('../util/process');
const { peek } = require('../util/stream');

const ZIP = Buffer.from([0x50, 0x4b, 0x03, 0x04]);
const USAGE = `
Usage:
${process.argv[0]} ${process.argv[1]} PATH_TO_ARCHIVE PASSPHRASE
* PATH_TO_ARCHIVE may be a hyphen ("-") to indicate that the archive is being piped in from standard input.
* If no passphrase was supplied when the backup was created, do not supply one now.
`;
const SUCCESS = `
    Success. You will have to log out of the site, and then log back in.
    IMPORTANT: Everything has been restored to the way things were at the time of backup, including:
    * all passwords and email addresses.
    * anything deleted since the backup was made — such things now exist again.
    Please revisit all of these and make sure they are okay.
`;

const fail = (error) => {
  console.error(error);
  console.error('\n\n\n\n\t\tDATABASE RESTORE FAILED.\n\n\n\n');
  process.exit(error.exitcode || 1);
};

const main = async () => {
  const [, , path, passphrase] = process.argv;
  if (path === undefined) throw new Error(USAGE);
  const [magic, stream] = await peek(path === '-' ? process.stdin : createReadStream(path), 4);
  if (magic.equals(ZIP)) {
    throw new Error(path === '-'
      ? 'Reading the backup from standard input ("-") is not supported for the legacy (.zip) backup format. Transfer the file and supply the file path instead.'
      : 'The demo Central does not read the legacy (.zip) backup format.');
  }
  const checked = await checkedForPassphrase(stream, passphrase);
  const sql = restoreSql(checked, passphrase);
  const psql = applySql(sql.stdout);
  // Streams also fail because psql has stopped reading; then its exit code is the one that tells why.
  const unlessPsqlStopped = (text) => (error) => {
    if (!['ABORT_ERR', 'EPIPE', 'ERR_STREAM_PREMATURE_CLOSE'].includes(error.code)) fail(`${text} (${error.code})`);
  };
  checked.on('error', unlessPsqlStopped('stream error'));
  sql.stdout.on('error', unlessPsqlStopped('process exited due to stream error'));
  const [restored, applied] = (await Promise.allSettled([finished(sql), finished(psql)])).map((end) => end.reason);
  const reason = psql.stoppedReading ? applied : restored ?? applied;
  if (reason !== undefined) throw reason;
  return SUCCESS;
};

main().then(console.log, fail);
