// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// A small HTTP service with the manners of Central's: /v1 prefix, field keys in the path, bodies parsed only when
// they say they are JSON, Problems as JSON, streams that break the connection when they fail.

const http = require('node:http');
const { pipeline } = require('node:stream');
const { inspect } = require('node:util');
const { buffered } = require('../util/stream');
const { transaction } = require('../util/db');
const { authenticate } = require('./auth');
const problem = require('./problem');

const JSON_LIMIT = 250 * 1024;
const isWrite = (method) => ['POST', 'PUT', 'PATCH', 'DELETE'].includes(method);

const parseCookies = (header = '') => Object.fromEntries(header.split(';').flatMap((pair) => {
  const at = pair.indexOf('=');
  if (at < 0) return [];
  const value = pair.slice(at + 1).trim();
  try { return [[pair.slice(0, at).trim(), decodeURIComponent(value)]]; } catch (error) { return [[pair.slice(0, at).trim(), value]]; }
}));

// Only `application/json` is parsed. With any other type the body is {}: so curl's default makes a backup without
// a passphrase, silently. Anything but an object or an array is refused, as by Express.
const parseBody = async (request) => {
  const type = (request.headers['content-type'] ?? '').split(';')[0].trim().toLowerCase();
  if (!['POST', 'PUT', 'PATCH'].includes(request.method) || type !== 'application/json') return {};
  const raw = (await buffered(request, JSON_LIMIT, problem.requestTooLarge)).toString('utf8');
  if (raw.length === 0) return {};
  try {
    if (!/^[\x20\t\n\r]*[[{]/.test(raw)) throw new SyntaxError();
    return JSON.parse(raw);
  } catch (error) {
    throw problem.unparseable({ format: 'json', rawLength: raw.length });
  }
};

const sendJson = (response, status, value, extra = {}) => {
  const body = Buffer.from(JSON.stringify(value));
  response.writeHead(status, { 'Content-Type': 'application/json; charset=utf-8', 'Content-Length': body.length, ...extra });
  response.end(body);
};

const sendError = (response, error) => {
  if (response.headersSent) { response.destroy(); return; }
  for (const name of ['Content-Disposition', 'Content-Type']) response.removeHeader(name);
  if (error instanceof problem.Problem) {
    sendJson(response, error.status, { message: error.message, code: error.code, details: error.details });
  } else {
    process.stderr.write(`${inspect(error)}\n`);
    sendJson(response, 500, { message: 'Internal Server Error' });
  }
};

// What a handler gave back, on the wire.
const sendResult = (response, result) => {
  if (result !== null && typeof result === 'object' && typeof result.pipe === 'function') {
    result.on('error', () => { response.addTrailers({ Status: 'Error' }); });
    pipeline(result, response, (error) => {
      // The socket is gone then, without the last chunk: all that an HTTP/1.1 client learns of a failed dump.
      if (error) console.error('stream failed:', error.message);
    });
  } else if (Buffer.isBuffer(result)) {
    response.setHeader('Content-Length', result.length);
    response.end(result);
  } else if (response.writableEnded === false) {
    sendJson(response, response.statusCode, result);
  }
};

const compile = (path) => new RegExp(`^${path.replace(/[.$()]/g, '\\$&').replace(/:(\w+)/g, '(?<$1>[^/]+)')}$`);

class Service {
  constructor({ pool, config }) {
    Object.assign(this, { pool, config, routes: [] });
  }

  // handler(context, response) -> JSON-able value, Buffer or stream. `raw`: the handler reads the request itself.
  route(method, path, handler, { anonymous = false, raw = false } = {}) {
    this.routes.push({ method, pattern: compile(path), handler, anonymous, raw });
  }

  context(request) {
    const url = new URL(request.url, 'http://service');
    const version = /^\/v(\d+)(\/.*)$/.exec(url.pathname);
    if (version === null) throw problem.missingApiVersion();
    if (version[1] !== '1') throw problem.unexpectedApiVersion({ got: version[1] });
    let path = version[2];
    let fieldKey = url.searchParams.get('st') ?? undefined;
    const key = /^\/key\/([^/]+)(\/.*)$/.exec(path);
    if (key !== null) {
      fieldKey = decodeURIComponent(key[1]);
      path = key[2];
    }
    return {
      method: request.method, headers: request.headers, cookies: parseCookies(request.headers.cookie), request,
      config: this.config, pool: this.pool, path, fieldKey, params: {},
      query: (text, values) => this.pool.query(text, values),
      args: Object.fromEntries(url.searchParams),
      extended: request.headers['x-extended-metadata']?.toLowerCase() === 'true',
    };
  }

  match(context) {
    const method = context.method === 'HEAD' ? 'GET' : context.method;
    for (const route of this.routes) {
      const found = route.method === method ? route.pattern.exec(context.path) : null;
      if (found !== null) {
        context.params = Object.fromEntries(Object.entries(found.groups ?? {}).map(([k, v]) => [k, decodeURIComponent(v)]));
        return route;
      }
    }
    return undefined;
  }

  async handle(request, response) {
    try {
      response.setHeader('Cache-Control', isWrite(request.method) ? 'no-store' : 'private, no-cache');
      response.setHeader('Vary', isWrite(request.method) ? '*' : 'Accept-Encoding, Origin');
      const context = this.context(request);
      const route = this.match(context);
      // As in Express, the body is parsed before a path is found to lead nowhere.
      context.body = route?.raw ? {} : await parseBody(request);
      if (route === undefined) throw problem.notFound();
      const run = async (query) => {
        const own = { ...context, query };
        own.auth = route.anonymous ? undefined : await authenticate(own);
        return route.handler(own, response);
      };
      sendResult(response, await (isWrite(request.method)
        ? transaction(this.pool, run) : run(context.query)));
    } catch (error) {
      sendError(response, error instanceof URIError ? problem.notFound() : error);
    }
  }

  listen(port) {
    const server = http.createServer((request, response) => {
      const started = new Date();
      const client = request.socket.remoteAddress;
      response.on('close', () => {
        const agent = request.headers['user-agent'] ?? '-';
        console.log(`${client} - - [${started.toISOString()}] "${request.method} ${request.url} HTTP/${
          request.httpVersion}" ${response.statusCode} ${response.writableFinished ? 'whole' : 'broken'} "${agent}"`);
      });
      this.handle(request, response);
    });
    server.requestTimeout = 0;
    return new Promise((resolve) => { server.listen(port, '0.0.0.0', () => resolve(server)); });
  }
}

module.exports = { Service };
