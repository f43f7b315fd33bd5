#!/bin/bash -eu
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Waits for the flag of a finished upgrade, as stock does, then starts PostgreSQL.
set -o pipefail
flag="$(dirname "$PGDATA")/.postgres14-upgrade-successful"
if ! [ -f "$flag" ]; then
  echo "Waiting for upgrade to complete..."
  while ! [ -f "$flag" ]; do sleep 0.2; done
fi
echo "Starting postgres..."
exec docker-entrypoint.sh postgres "$@"
