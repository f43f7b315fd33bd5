// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const bcrypt = require('../util/bcrypt');
const problem = require('./problem');
const { isToken, sessionCookie } = require('./sessions');

const sessionByToken = async (query, token) => {
  if (!isToken(token)) return undefined;
  const { rows } = await query(`
    SELECT s.token, s.csrf, s."createdAt", s."expiresAt", a.id AS "actorId", a.type, a."acteeId", a."displayName"
    FROM sessions s JOIN actors a ON a.id = s."actorId"
    WHERE s.token = $1 AND s."expiresAt" > now()`, [token]);
  return rows[0];
};

const asAuth = (row, session) => ({
  actor: { id: row.actorId, type: row.type, acteeId: row.acteeId, displayName: row.displayName }, session,
});

const userByEmail = async (query, email) => {
  const { rows } = await query(`
    SELECT u.*, a.type, a."acteeId", a."displayName", a."createdAt", a."updatedAt", a."deletedAt"
    FROM users u JOIN actors a ON a.id = u."actorId"
    WHERE u.email = $1 AND a."deletedAt" IS NULL`, [email]);
  return rows[0];
};

const decoded = (value) => {
  try { return decodeURIComponent(value); } catch (error) { return undefined; }
};

// Who asks, in Central's order: field key in the path, Bearer, Basic, cookie. Throws the problem to answer with.
const authenticate = async (context) => {
  const { query, headers, config } = context;
  const bySession = async (token, otherwise) => {
    const session = await sessionByToken(query, token);
    if (session === undefined) throw otherwise();
    return asAuth(session, session);
  };

  if (context.fieldKey !== undefined) {
    if (!isToken(context.fieldKey)) throw problem.authenticationFailed();
    const auth = await bySession(context.fieldKey, problem.insufficientRights);
    if (!['field_key', 'public_link'].includes(auth.actor.type)) throw problem.insufficientRights();
    return auth;
  }

  const authorization = headers.authorization ?? '';
  const https = headers['x-forwarded-proto'] === 'https';
  if (authorization.startsWith('Bearer ')) return bySession(authorization.slice(7), problem.authenticationFailed);

  if (authorization.startsWith('Basic ')) {
    if (config.oidcEnabled) throw problem.basicAuthNotSupportedWhenOidcEnabled();
    if (!https) throw problem.httpsOnly();
    const match = /^([^:]+):(.+)$/.exec(Buffer.from(authorization.slice(6), 'base64').toString('utf8'));
    if (match === null) throw problem.authenticationFailed();
    const user = await userByEmail(query, match[1]);
    if (user === undefined || !(await bcrypt.verify(match[2], user.password))) throw problem.authenticationFailed();
    return asAuth(user, undefined);
  }

  if (authorization !== '') throw problem.authenticationFailed();
  if (headers.cookie === undefined) throw problem.authenticationFailed();

  if (!https) throw problem.httpsOnly();
  const token = context.cookies[sessionCookie(config)];
  if (token === undefined) throw problem.authenticationFailed();
  const auth = await bySession(token, problem.authenticationFailed);
  // A browser sends cookies by itself: a POST must prove that the page meant it.
  if (context.method === 'POST' && headers['x-requested-with'] !== 'XMLHttpRequest') {
    const csrf = typeof context.body.__csrf === 'string' ? decoded(context.body.__csrf) : undefined;
    if (!csrf || csrf !== auth.session.csrf) throw problem.authenticationFailed();
    delete context.body.__csrf;
  }
  return auth;
};

// An actee, its species and its parents, on any of which a role may have been assigned.
const IMPLIED = `WITH RECURSIVE implied(id) AS (
  SELECT $1::varchar UNION SELECT unnest(ARRAY[parent, species]) FROM actees JOIN implied USING (id))`;

const verbsOn = async (query, actorId, acteeId) => {
  const { rows } = await query(`${IMPLIED}
    SELECT DISTINCT jsonb_array_elements_text(r.verbs) AS verb
    FROM assignments a JOIN implied ON implied.id = a."acteeId" JOIN roles r ON r.id = a."roleId"
    WHERE a."actorId" = $2`, [acteeId, actorId]);
  return rows.map((row) => row.verb);
};

// Throws 403.1 unless the actor may do one of `verbs` on the actee.
const requireVerb = async ({ query, auth }, verbs, acteeId) => {
  const wanted = Array.isArray(verbs) ? verbs : [verbs];
  const has = new Set(await verbsOn(query, auth.actor.id, acteeId));
  if (!wanted.some((verb) => has.has(verb))) throw problem.insufficientRights();
};

module.exports = { authenticate, userByEmail, verbsOn, requireVerb };
