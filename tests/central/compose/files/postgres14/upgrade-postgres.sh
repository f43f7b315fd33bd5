#!/bin/bash -eu
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Sets the two flags of a finished upgrade; refuses old data, which a demo cannot have.
if [ -f "$PGDATAOLD/PG_VERSION" ]; then
  echo >&2 "!!! PostgreSQL 9.6 data found: the demo Central does not upgrade it."
  exit 1
fi
touch "$(dirname "$PGDATANEW")/.postgres14-upgrade-successful" /postgres14-upgrade/upgrade-successful
echo "Complete."
