// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { requireVerb } = require('../http/auth');
const problem = require('../http/problem');

const PROJECT = 'id, name, description, archived, "keyId", "createdAt", "updatedAt", "deletedAt"';

// The project, if it exists and the actor may do `verb` on it.
const projectFor = async (context, verb) => {
  const id = Number(context.params.projectId);
  if (!Number.isInteger(id) || id > 2147483647) throw problem.notFound();
  const { rows } = await context.query(`SELECT ${PROJECT}, "acteeId" FROM projects WHERE id = $1 AND "deletedAt" IS NULL`, [id]);
  if (rows.length === 0) throw problem.notFound();
  await requireVerb(context, verb, rows[0].acteeId);
  return rows[0];
};

const withoutActee = ({ acteeId, ...rest }) => rest;

module.exports = (service) => {
  service.route('GET', '/projects', async ({ query, auth, extended }) => {
    const more = extended ? `,
      (SELECT count(*) FROM forms f WHERE f."projectId" = p.id AND f."deletedAt" IS NULL) AS forms,
      (SELECT count(*) FROM field_keys k WHERE k."projectId" = p.id) AS "appUsers"` : '';
    const { rows } = await query(`
      SELECT ${PROJECT}${more} FROM projects p
      WHERE "deletedAt" IS NULL AND EXISTS (
        SELECT FROM assignments a JOIN roles r ON r.id = a."roleId"
        WHERE a."actorId" = $1 AND a."acteeId" IN ('*', 'project', p."acteeId") AND r.verbs ? 'project.read')
      ORDER BY name, id`, [auth.actor.id]);
    return rows;
  });

  service.route('GET', '/projects/:projectId', async (context) => withoutActee(await projectFor(context, 'project.read')));

  service.route('GET', '/projects/:projectId/app-users', async (context) => {
    const project = await projectFor(context, 'field_key.list');
    const { rows } = await context.query(`
      SELECT a.id, a.type, a."displayName", a."createdAt", a."updatedAt", a."deletedAt", k."projectId", s.token
      FROM field_keys k JOIN actors a ON a.id = k."actorId" LEFT JOIN sessions s ON s."actorId" = a.id
      WHERE k."projectId" = $1 AND a."deletedAt" IS NULL ORDER BY a.id`, [project.id]);
    return rows;
  });
};
module.exports.projectFor = projectFor;
