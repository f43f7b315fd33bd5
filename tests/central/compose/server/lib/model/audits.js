// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// One line of the server's log. Central's worker marks what it has handled; nothing is left to handle here.
const audit = (query, { actorId, action, acteeId, details, processed = true }) => query(`
  INSERT INTO audits ("actorId", action, "acteeId", details, "loggedAt", processed, failures)
  VALUES ($1, $2, $3, $4, clock_timestamp(), CASE WHEN $5::boolean THEN clock_timestamp() END, 0)`,
[actorId ?? null, action, acteeId ?? null, details === undefined ? null : JSON.stringify(details), processed]);

module.exports = { audit };
