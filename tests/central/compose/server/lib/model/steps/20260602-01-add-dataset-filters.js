// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

module.exports = {
  up: (query) => query(`
    CREATE UNIQUE INDEX dataset_access_filters__unique_for_composite_fk_referent ON ds_properties ("datasetId", id);
    CREATE TABLE dataset_access_filters (
      "datasetId" integer NOT NULL,
      "datasetPropertyId" integer NOT NULL,
      "actorPropertyId" integer NOT NULL REFERENCES actor_properties (id) ON DELETE CASCADE,
      PRIMARY KEY ("datasetPropertyId", "actorPropertyId"),
      CONSTRAINT dataset_access_filters__composite_fk FOREIGN KEY ("datasetId", "datasetPropertyId")
        REFERENCES ds_properties ("datasetId", id) ON DELETE CASCADE);
    CREATE INDEX ON dataset_access_filters ("actorPropertyId");
    CREATE INDEX ON dataset_access_filters ("datasetId", "datasetPropertyId");
    CREATE VIEW actor_dataset_filter AS
      SELECT f."datasetId", v."actorId", jsonb_object_agg(p.name, v.value) AS thefilter
      FROM dataset_access_filters f
      JOIN ds_properties p ON p.id = f."datasetPropertyId"
      JOIN actor_property_values v USING ("actorPropertyId")
      GROUP BY f."datasetId", v."actorId";`),
};
