// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { randomBytes } = require('node:crypto');

// A session's token and its CSRF twin: 48 random bytes, base 64 with `!` and `$` for `/` and `+`.
const newToken = () => randomBytes(48).toString('base64').replace(/\//g, '!').replace(/\+/g, '$');
const isToken = (value) => /^[A-Za-z0-9!$]{64}$/.test(value);

const secure = (config) => config.env.domain.startsWith('https://');
const sessionCookie = (config) => (secure(config) ? '__Host-session' : 'session');

const cookie = (name, value, { expires, httpOnly, isSecure }) => [
  `${name}=${encodeURIComponent(value)}`, 'Path=/', `Expires=${expires.toUTCString()}`,
  ...(httpOnly ? ['HttpOnly'] : []), ...(isSecure ? ['Secure'] : []), 'SameSite=Strict',
].join('; ');

// The Set-Cookie values of a new session, or of its end (no session given).
const cookies = (config, session) => {
  const expires = session === undefined ? new Date(0) : session.expiresAt;
  const isSecure = secure(config);
  return [
    cookie(sessionCookie(config), session === undefined ? 'null' : session.token, { expires, httpOnly: true, isSecure }),
    cookie('__csrf', session === undefined ? 'null' : session.csrf, { expires, isSecure }),
  ];
};

// Creates a session of `actorId`, for `lifetime` seconds or until `expiresAt`.
const createSession = async (query, actorId, { lifetime, expiresAt }) => {
  const { rows } = await query(`
    INSERT INTO sessions ("actorId", token, csrf, "createdAt", "expiresAt")
    VALUES ($1, $2, $3, statement_timestamp(), coalesce($4::timestamptz, statement_timestamp() + make_interval(secs => $5)))
    RETURNING *`, [actorId, newToken(), newToken(), expiresAt ?? null, lifetime ?? 0]);
  return rows[0];
};

module.exports = { newToken, isToken, sessionCookie, cookies, createSession };
