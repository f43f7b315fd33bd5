// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Errors of the API: the number is Central's code, its integral part the HTTP status.

class Problem extends Error {
  constructor(code, message, details) {
    super(message);
    this.code = code;
    this.details = details;
  }

  get status() { return Math.floor(this.code); }
}

const make = (code, message) => (details) =>
  new Problem(code, typeof message === 'function' ? message(details) : message, details);

module.exports = {
  Problem,
  unparseable: make(400.1, ({ format, rawLength }) => `Could not parse the given data (${rawLength} chars) as ${format}.`),
  missingParameters: make(400.3, ({ expected, got }) => `Required parameters missing. Expected (${expected.join(', ')}), got (${
    Object.entries(got).map(([k, v]) => `${k}: ${v === undefined ? 'undefined' : JSON.stringify(v)}`).join(', ')}).`),
  invalidHeader: make(400.6, ({ field, value }) => `An expected header field (${field}) did not match the expected format (got: ${value ?? '[nothing]'}).`),
  missingMultipartField: make(400.7, ({ field }) => `Required multipart POST field ${field} missing.`),
  unexpectedValue: make(400.8, ({ field, value, reason }) => `Unexpected ${field} value ${value}; ${reason}`),
  invalidDataTypeOfParameter: make(400.11, ({ field, expected }) => `Invalid input data type: expected (${field}) to be (${expected})`),
  requestTooLarge: make(400.36, 'Request body too large.'),
  multipartParsingFailed: make(400.39, 'Multipart form content failed to parse.'),
  authenticationFailed: make(401.2, 'Could not authenticate with the provided credentials.'),
  httpsOnly: make(401.3, 'This authentication method is only available over HTTPS'),
  basicAuthNotSupportedWhenOidcEnabled: make(401.5, 'This authentication method is not available on this server.'),
  insufficientRights: make(403.1, 'The authentication you provided does not have rights to perform that action.'),
  notFound: make(404.1, 'Could not find the resource you were looking for.'),
  missingApiVersion: make(404.2, 'Expected an API version (eg /v1) at the start of the request URL.'),
  unexpectedApiVersion: make(404.3, ({ got }) => `Unexpected an API version (accepts: 1) (got: ${got}).`),
  formVersionNotFound: make(404.6, ({ formVersion }) => `The form version specified in this submission '${formVersion}' does not exist.`),
  xmlConflict: make(409.1, 'A submission already exists with this ID, but with different XML. Resubmissions to attach additional multimedia must resubmit an identical xml_submission_file.'),
  notAcceptingSubmissions: make(409.2, 'This form is not currently accepting submissions. Please talk to your program staff if this is unexpected.'),
  uniquenessViolation: make(409.3, ({ fields, values }) => `A resource already exists with ${fields} value(s) of ${values}.`),
};
