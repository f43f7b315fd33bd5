// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const grant = (query, verbs, systems) =>
  query('UPDATE roles SET verbs = verbs || $1::jsonb WHERE system = ANY($2)', [JSON.stringify(verbs), systems]);

module.exports = {
  up: async (query) => {
    await grant(query, ['actor_property.list'], ['admin', 'manager', 'viewer']);
    await grant(query, ['actor_property.update', 'field_key.update'], ['admin', 'manager']);
  },
};
