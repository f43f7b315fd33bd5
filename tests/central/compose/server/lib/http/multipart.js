// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const problem = require('./problem');

const parameter = (header, name) => {
  const match = new RegExp(`;\\s*${name}="((?:[^"\\\\]|\\\\.)*)"|;\\s*${name}=([^;\\s]+)`, 'i').exec(header);
  return match === null ? undefined : (match[1] ?? match[2]).replace(/\\(.)/g, '$1');
};

// The parts of a multipart/form-data body: [{name, filename, type, content}].
const parseMultipart = (contentType, body) => {
  const boundary = parameter(contentType, 'boundary');
  if (boundary === undefined) throw problem.multipartParsingFailed();
  const delimiter = Buffer.from(`\r\n--${boundary}`);
  const data = Buffer.concat([Buffer.from('\r\n'), body]);
  const parts = [];
  let at = data.indexOf(delimiter);
  for (;;) {
    if (at < 0) throw problem.multipartParsingFailed();
    const start = at + delimiter.length;
    if (data.subarray(start, start + 2).toString() === '--') return parts;
    const end = data.indexOf(delimiter, start);
    const headerEnd = data.indexOf('\r\n\r\n', start);
    if (end < 0 || headerEnd < 0 || headerEnd > end) throw problem.multipartParsingFailed();
    const headers = Object.fromEntries(data.subarray(start + 2, headerEnd).toString('utf8').split('\r\n').map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim()];
    }));
    const disposition = headers['content-disposition'] ?? '';
    parts.push({
      name: parameter(disposition, 'name'), filename: parameter(disposition, 'filename'),
      type: headers['content-type'], content: data.subarray(headerEnd + 4, end),
    });
    at = end;
  }
};

module.exports = { parseMultipart };
