// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Answers Enketo's links from what Redis and the secrets say, and mints ids as Enketo's API does. It renders no form.

const http = require('node:http');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { idOfOnce, newId, onceId, openRosaKey } = require('./links');
const { Redis } = require('./redis');

const config = JSON.parse(readFileSync(join(__dirname, 'config/config.json'), 'utf8'));
const linked = config['linked form and data server'];
const lessSecret = config['less secure encryption key'];
const main = new Redis(config.redis.main);
const cache = new Redis(config.redis.cache);

const json = (response, status, value) => {
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(value));
};

// The survey behind an id: both halves must be there, the hash `id:` and the key `or:` that leads back to it.
const survey = async (enketoId) => {
  const flat = await main.command('HGETALL', `id:${enketoId}`);
  const found = {};
  for (let i = 0; i < flat.length; i += 2) found[flat[i]] = flat[i + 1];
  if (found.openRosaServer === undefined || found.active === 'false') return undefined;
  const back = await main.command('GET', openRosaKey(found.openRosaServer, found.openRosaId));
  return back === enketoId ? found : undefined;
};

// As Enketo's: a page opens whatever the id is. Only when it asks for the form does it turn out whether the id is known.
const page = (response, enketoId, once) => {
  response.writeHead(enketoId === undefined ? 404 : 200, { 'Content-Type': 'text/html; charset=utf-8' });
  if (enketoId === undefined) {
    response.end('<!doctype html><title>Not found</title>');
    return;
  }
  const data = JSON.stringify({ enketoId, once }).replace(/</g, '\\u003c');
  response.end(`<!doctype html><title>Enketo (demo)</title><script type="application/json" id="survey">${data}</script>`);
};

const xform = async (response, enketoId) => {
  const found = await survey(enketoId);
  if (found === undefined) { json(response, 404, { code: 404, message: 'Survey with this ID not found' }); return; }
  await main.command('HSET', `id:${enketoId}`, 'lastAccessed', new Date().toISOString());
  json(response, 200, { server: found.openRosaServer, form: found.openRosaId });
};

// A known server and form give the id they have; an `or:` key without its hash is answered with 406, as by Enketo.
const register = async (server, formId) => {
  const key = openRosaKey(server, formId);
  const known = await main.command('GET', key);
  if (known !== null) return (await survey(known)) === undefined ? { status: 406 } : { status: 200, id: known };
  const id = newId(config['id length']);
  // Sent in one go, so that no other request's commands come in between.
  await Promise.all([
    main.command('MULTI'),
    main.command('HSET', `id:${id}`, 'openRosaServer', server, 'openRosaId', formId, 'submissions', 0,
      'launchDate', new Date().toISOString(), 'active', 'true', 'theme', ''),
    main.command('SET', key, id),
    main.command('EXEC'),
  ]);
  // Enketo keeps its transformed forms in the cache for 30 days.
  await cache.command('SET', `ca:${key.slice(3)}`, '{}', 'EX', 30 * 86400);
  return { status: 201, id };
};

const authorized = (request) => {
  const [scheme, value] = (request.headers.authorization ?? '').split(' ');
  return scheme === 'Basic' && Buffer.from(value ?? '', 'base64').toString().split(':')[0] === linked['api key'];
};

const ownServer = (server) => {
  const bare = (text) => text.replace(/^https?:\/\//i, '').replace(/^www\./i, '').toLowerCase();
  const host = bare(server).split('/')[0];
  return host === bare(linked['server url']) || host.split(':')[0] === bare(linked['server url']);
};

const api = async (request, response) => {
  if (!authorized(request)) { json(response, 401, { code: 401, message: 'Not Allowed. Invalid API key.' }); return; }
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = new URLSearchParams(Buffer.concat(chunks).toString());
  const server = body.get('server_url');
  const formId = body.get('form_id');
  if (!server || !formId) { json(response, 400, { code: 400, message: 'Bad Request. Server URL and Form ID are required.' }); return; }
  if (!ownServer(server)) { json(response, 403, { code: 403, message: 'Forbidden. This server is not linked.' }); return; }
  const { status, id } = await register(server, formId);
  if (status === 406) { json(response, 406, { code: 406, message: 'Not Acceptable. A record exists, but its survey does not.' }); return; }
  const base = `https://${request.headers.host}/-`;
  const once = onceId(id, lessSecret);
  json(response, status, {
    url: `${base}/${id}`, single_url: `${base}/single/${id}`, single_once_url: `${base}/single/${once}`,
    offline_url: `${base}/x/${id}`, preview_url: `${base}/preview/${id}`, enketo_id: id, code: status,
  });
};

const handle = async (request, response) => {
  const { pathname } = new URL(request.url, 'http://enketo');
  if (request.method === 'POST' && pathname === '/-/api/v2/survey/all') { await api(request, response); return; }
  const single = /^\/-\/single\/([a-zA-Z0-9]+)$/.exec(pathname);
  const form = /^\/-\/(?:transform\/)?xform\/([a-zA-Z0-9]{4,31})$/.exec(pathname);
  const plain = /^\/-\/(?:x\/|preview\/)?([a-zA-Z0-9]{4,31})$/.exec(pathname);
  if (['GET', 'HEAD'].includes(request.method) && single !== null) {
    const isPlain = single[1].length <= 31;
    page(response, isPlain ? single[1] : idOfOnce(single[1], lessSecret), !isPlain);
  } else if (['GET', 'HEAD'].includes(request.method) && plain !== null) {
    page(response, plain[1], false);
  } else if (form !== null && ['GET', 'POST'].includes(request.method)) {
    await xform(response, form[1]);
  } else {
    json(response, 404, { code: 404, message: 'Not found' });
  }
};

const server = http.createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(error);
    if (response.headersSent) response.destroy(); else json(response, 500, { code: 500, message: error.message });
  });
});
server.listen(Number(config.port), () => console.log(`Worker ready for duty at port ${config.port}!`));
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => { server.close(() => process.exit(0)); server.closeAllConnections?.(); });
