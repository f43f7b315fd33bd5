// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Genuine bcrypt ($2b$, cost 12, as in Central) by libxcrypt, through perl's crypt(): Debian's stable releases have
// no node-bcrypt. The password goes by stdin, the setting by argument: a hash is no secret of the container's root.

const { spawn } = require('node:child_process');
const { randomBytes, timingSafeEqual } = require('node:crypto');
const { once } = require('node:events');

const COST = 12;
const PERL = 'local $/; my $p = <STDIN>; my $h = crypt($p, $ARGV[0]); print defined $h ? $h : "*";';
const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const BCRYPT64 = './ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';

const crypt = async (password, setting) => {
  const child = spawn('perl', ['-e', PERL, setting], { stdio: ['pipe', 'pipe', 'inherit'] });
  const chunks = [];
  child.stdout.on('data', (chunk) => chunks.push(chunk));
  child.stdin.end(Buffer.from(password, 'utf8'));
  await once(child, 'close');
  return Buffer.concat(chunks).toString('ascii');
};

const newSetting = () => {
  // 16 random bytes are 22 characters of bcrypt's own base 64; the bits over are 0 in both alphabets.
  const salt = randomBytes(16).toString('base64').replace(/=+$/, '')
    .replace(/./g, (c) => BCRYPT64[BASE64.indexOf(c)]);
  return `$2b$${String(COST).padStart(2, '0')}$${salt}`;
};

const hash = async (password) => {
  const result = await crypt(password, newSetting());
  if (!/^\$2b\$\d\d\$[./A-Za-z0-9]{53}$/.test(result)) throw new Error('libcrypt made no bcrypt hash');
  return result;
};

const verify = async (password, stored) => {
  if (typeof password !== 'string' || password.trim() === '' || !stored) return false;
  const computed = Buffer.from(await crypt(password, stored));
  const expected = Buffer.from(stored);
  return computed.length === expected.length && timingSafeEqual(computed, expected);
};

module.exports = { hash, verify };
