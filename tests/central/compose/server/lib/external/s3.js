// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// As much of S3 as Central uses: PUT, DELETE and presigned GET, path style, signature version 4.

const { createHash, createHmac } = require('node:crypto');
const http = require('node:http');
const https = require('node:https');

const REGION = 'us-east-1';
const enabled = ({ server, accessKey, secretKey, bucketName }) => Boolean(server && accessKey && secretKey && bucketName);
const sha256 = (data) => createHash('sha256').update(data).digest('hex');
const hmac = (key, data) => createHmac('sha256', key).update(data).digest();
const encode = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

// The object's name holds no server and no bucket, so that a restored database finds its objects anywhere.
const objectName = ({ id, sha }, prefix = '') => `${prefix ?? ''}blob-${id}-${sha}`;

const place = (store, blob) => {
  const url = new URL(store.server);
  url.pathname = `${url.pathname.replace(/\/$/, '')}/${store.bucketName}/${objectName(blob, store.objectPrefix)}`;
  return url;
};

const signature = (store, stamp, canonicalRequest) => {
  const scope = `${stamp.slice(0, 8)}/${REGION}/s3/aws4_request`;
  const key = [stamp.slice(0, 8), REGION, 's3', 'aws4_request'].reduce(hmac, `AWS4${store.secretKey}`);
  return { scope, value: hmac(key, `AWS4-HMAC-SHA256\n${stamp}\n${scope}\n${sha256(canonicalRequest)}`).toString('hex') };
};

const now = () => new Date().toISOString().replace(/[-:]|\.\d+/g, '');
const queryOf = (pairs) => Object.entries(pairs).map(([k, v]) => `${encode(k)}=${encode(v)}`).sort().join('&');

const presignedUrl = (store, blob, extra = {}, seconds = 60) => {
  if (!enabled(store)) throw new Error('S3 is not configured, but the blob is there');
  const url = place(store, blob);
  const stamp = now();
  const query = queryOf({
    ...extra,
    'X-Amz-Algorithm': 'AWS4-HMAC-SHA256',
    'X-Amz-Credential': `${store.accessKey}/${stamp.slice(0, 8)}/${REGION}/s3/aws4_request`,
    'X-Amz-Date': stamp,
    'X-Amz-Expires': String(seconds),
    'X-Amz-SignedHeaders': 'host',
  });
  const { value } = signature(store, stamp, `GET\n${url.pathname}\n${query}\nhost:${url.host}\n\nhost\nUNSIGNED-PAYLOAD`);
  return `${url.origin}${url.pathname}?${query}&X-Amz-Signature=${value}`;
};

const send = (store, method, blob, content) => new Promise((resolve, reject) => {
  const url = place(store, blob);
  const stamp = now();
  const hash = sha256(content);
  const headers = { host: url.host, 'x-amz-content-sha256': hash, 'x-amz-date': stamp };
  const names = Object.keys(headers).sort();
  const canonical = [method, url.pathname, '', ...names.map((n) => `${n}:${headers[n]}`), '', names.join(';'), hash].join('\n');
  const { scope, value } = signature(store, stamp, canonical);
  const request = (url.protocol === 'https:' ? https : http).request(url, {
    method,
    timeout: store.requestTimeout || 60000,
    headers: {
      ...headers,
      'content-length': content.length,
      authorization: `AWS4-HMAC-SHA256 Credential=${store.accessKey}/${scope}, SignedHeaders=${names.join(';')}, Signature=${value}`,
    },
  }, (response) => {
    response.resume();
    response.on('end', () => (response.statusCode < 300 ? resolve()
      : reject(new Error(`S3 answered ${method} ${objectName(blob)} with ${response.statusCode}`))));
  });
  request.on('timeout', () => request.destroy(new Error('S3 request timed out')));
  request.on('error', reject);
  request.end(content);
});

const upload = (store, blob) => send(store, 'PUT', blob, blob.content);
const remove = (store, blob) => send(store, 'DELETE', blob, Buffer.alloc(0));

module.exports = { enabled, objectName, presignedUrl, upload, remove };
