// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { verbsOn, requireVerb } = require('../http/auth');
const problem = require('../http/problem');

const USER = `
  SELECT a.id, a.type, a."displayName", a."createdAt", a."updatedAt", a."deletedAt", u.email, u."lastLoginAt"
  FROM users u JOIN actors a ON a.id = u."actorId" WHERE a."deletedAt" IS NULL`;

const preferences = async (query, userId) => {
  const site = await query('SELECT "propertyName" AS name, "propertyValue" AS value FROM user_site_preferences WHERE "userId" = $1', [userId]);
  const projects = await query('SELECT "projectId", "propertyName" AS name, "propertyValue" AS value FROM user_project_preferences WHERE "userId" = $1', [userId]);
  const result = { site: {}, projects: {} };
  for (const { name, value } of site.rows) result.site[name] = value;
  for (const { projectId, name, value } of projects.rows) (result.projects[projectId] ??= {})[name] = value;
  return result;
};

module.exports = (service) => {
  service.route('GET', '/users/current', async ({ query, auth, extended }) => {
    const { rows } = await query(`${USER} AND a.id = $1`, [auth.actor.id]);
    if (rows.length === 0) throw problem.notFound();
    if (!extended) return rows[0];
    return { verbs: await verbsOn(query, auth.actor.id, '*'), preferences: await preferences(query, auth.actor.id), ...rows[0] };
  });

  service.route('GET', '/users', async (context) => {
    await requireVerb(context, 'user.list', 'user');
    return (await context.query(`${USER} ORDER BY u.email`)).rows;
  });
};
