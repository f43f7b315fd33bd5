// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Enketo's ids. Facts: enketo/enketo packages/enketo-express app/lib/utils.js, app/lib/router-utils.js,
// app/models/survey-model.js.

const { createCipheriv, createDecipheriv, createHash, randomBytes } = require('node:crypto');

const LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789';

// AES-192-CBC with key and IV from the password alone: OpenSSL's EVP_BytesToKey with MD5, one round, no salt. So the
// same id always gives the same text: `openssl enc -aes-192-cbc -md md5 -nosalt -pass ...` does the same.
const keyAndIv = (password) => {
  const blocks = [];
  while (blocks.length < 3) {
    blocks.push(createHash('md5').update(Buffer.concat([blocks[blocks.length - 1] ?? Buffer.alloc(0), Buffer.from(password)])).digest());
  }
  const bytes = Buffer.concat(blocks);
  return [bytes.subarray(0, 24), bytes.subarray(24, 40)];
};

// The id of the single-submission link of a form: hexadecimal, 64 characters for an id of 31.
const onceId = (enketoId, lessSecret) => {
  const cipher = createCipheriv('aes-192-cbc', ...keyAndIv(lessSecret));
  return Buffer.concat([cipher.update(enketoId, 'utf8'), cipher.final()]).toString('hex');
};

// The enketoId in a single-submission link, or undefined. Letters and digits only: a wrong key gives noise.
const idOfOnce = (once, lessSecret) => {
  try {
    const decipher = createDecipheriv('aes-192-cbc', ...keyAndIv(lessSecret));
    const id = Buffer.concat([decipher.update(Buffer.from(once, 'hex')), decipher.final()]).toString('utf8');
    return /^[a-z0-9]+$/i.test(id) ? id : undefined;
  } catch (error) {
    return undefined;
  }
};

const newId = (length) => Array.from(randomBytes(length), (byte) => LETTERS[byte % LETTERS.length]).join('');

// The server's part of an `or:` key: no protocol, no `www.`, no slash at the end, lower case; the port stays.
const openRosaKey = (server, formId) =>
  `or:${server.replace(/^https?:\/\//i, '').replace(/^www\./i, '').replace(/\/$/, '').toLowerCase()},${formId.trim()}`;

module.exports = { onceId, idOfOnce, newId, openRosaKey };
