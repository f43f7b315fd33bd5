// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

module.exports = {
  up: (query) => query(`
    CREATE TABLE actor_properties (
      id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      "projectId" integer NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
      name text NOT NULL CHECK (length(name) > 0));
    CREATE UNIQUE INDEX ON actor_properties ("projectId", name);
    CREATE TABLE actor_property_values (
      id integer GENERATED ALWAYS AS IDENTITY,
      "actorId" integer NOT NULL REFERENCES actors (id) ON DELETE CASCADE,
      "actorPropertyId" integer NOT NULL REFERENCES actor_properties (id) ON DELETE CASCADE,
      value text NOT NULL CHECK (length(value) > 0));
    CREATE UNIQUE INDEX ON actor_property_values ("actorId", "actorPropertyId");
    CREATE INDEX ON actor_property_values ("actorPropertyId");`),
};
