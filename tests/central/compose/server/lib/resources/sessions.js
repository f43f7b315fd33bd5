// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { userByEmail, verbsOn } = require('../http/auth');
const problem = require('../http/problem');
const { cookies, createSession, isToken } = require('../http/sessions');
const { audit } = require('../model/audits');
const bcrypt = require('../util/bcrypt');

const blank = (value) => value === undefined || value === null || value === '';

const mayEnd = async (query, actor, session) => {
  if (actor.acteeId === session.acteeId && actor.type !== 'field_key') return true;
  return (await verbsOn(query, actor.id, session.acteeId)).includes('session.end');
};

module.exports = (service) => {
  const { config } = service;

  // With OpenID Connect this route does not exist: 404.1.
  if (!config.oidcEnabled) {
    service.route('POST', '/sessions', async ({ query, body, headers }, response) => {
      const { email, password } = body;
      if (blank(email) || blank(password)) {
        throw problem.missingParameters({ expected: ['email', 'password'], got: { email, password } });
      }
      const user = typeof email === 'string' ? await userByEmail(query, email) : undefined;
      if (user === undefined || !(await bcrypt.verify(password, user.password))) throw problem.authenticationFailed();
      const session = await createSession(query, user.actorId, { lifetime: config.sessionLifetime });
      await audit(query, { actorId: user.actorId, action: 'user.session.create', acteeId: user.acteeId, details: { userAgent: headers['user-agent'] } });
      await query('UPDATE users SET "lastLoginAt" = clock_timestamp() WHERE "actorId" = $1', [user.actorId]);
      response.setHeader('Set-Cookie', cookies(config, session));
      const { token, csrf, expiresAt, createdAt } = session;
      return { token, csrf, expiresAt, createdAt };
    }, { anonymous: true });
  }

  service.route('GET', '/sessions/restore', async ({ auth }) => {
    if (auth.session === undefined) throw problem.notFound();
    const { createdAt, expiresAt } = auth.session;
    return { createdAt, expiresAt };
  });

  const end = async ({ query, auth }, session, response) => {
    if (!(await mayEnd(query, auth.actor, session))) throw problem.insufficientRights();
    await query('DELETE FROM sessions WHERE token = $1', [session.token]);
    if (session.type !== 'user') {
      await audit(query, { actorId: auth.actor.id, action: `${session.type}.session.end`, acteeId: session.acteeId });
    }
    if (session.token === auth.session?.token) response.setHeader('Set-Cookie', cookies(config));
    return { success: true };
  };

  service.route('DELETE', '/sessions/current', async (context, response) => {
    if (context.auth.session === undefined) throw problem.notFound();
    return end(context, context.auth.session, response);
  });

  service.route('DELETE', '/sessions/:token', async (context, response) => {
    const { rows } = isToken(context.params.token) ? await context.query(`
      SELECT s.token, a.type, a."acteeId" FROM sessions s JOIN actors a ON a.id = s."actorId"
      WHERE token = $1 AND s."expiresAt" > now()`, [context.params.token]) : { rows: [] };
    // 403 also where there is no such session, so that nothing is given away.
    if (rows.length === 0) throw problem.insufficientRights();
    return end(context, rows[0], response);
  });
};
