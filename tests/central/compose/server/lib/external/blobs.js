// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const s3 = require('./s3');

const quoted = (name) => `filename="${name.replace(/[^\x20-\x7e]|["\\]/g, '?')}"; filename*=UTF-8''${encodeURIComponent(name)}`;

// A stored file: its content from the database, or a redirect (307) to where S3 has it.
const blobResponse = (context, response, name, blob) => {
  if (blob.s3_status === 'uploaded') {
    response.statusCode = 307;
    response.setHeader('Location', s3.presignedUrl(context.config.external.s3blobStore, blob, {
      'response-content-disposition': `attachment; ${quoted(name)}`, 'response-content-type': blob.contentType,
    }));
    return Buffer.alloc(0);
  }
  response.setHeader('Content-Disposition', `attachment; ${quoted(name)}`);
  response.setHeader('Content-Type', blob.contentType);
  response.setHeader('ETag', `"${blob.md5}"`);
  return blob.content;
};

module.exports = { blobResponse };
