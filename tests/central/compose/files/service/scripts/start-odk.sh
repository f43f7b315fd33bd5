#!/bin/bash -eu
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The stock order: configuration, wait for the database, migrations, upgrade log, cron, server.
set -o pipefail
# Cron jobs read their environment from here.
cp --preserve=mode,ownership /proc/self/environ /dev/shm/docker-envblock

node lib/bin/select-version.js

echo "generating local service configuration.."
base="https://${DOMAIN}"
[ "${HTTPS_PORT}" = 443 ] || base="${base}:${HTTPS_PORT}"
ENKETO_API_KEY="$(cat /etc/secrets/enketo-api-key)" BASE_URL="$base" \
  /scripts/envsub.awk < /usr/share/odk/config.json.template > /usr/odk/config/local.json

SENTRY_RELEASE="$(cat sentry-versions/server)"
SENTRY_TAGS="$(printf '{"version.central": "%s", "version.client": "%s"}' "$(cat sentry-versions/central)" "$(cat sentry-versions/client)")"
export SENTRY_RELEASE SENTRY_TAGS

echo "waiting for PostgreSQL to become connectable to..."
while ! psql --no-password --quiet --command "" > /dev/null 2>&1; do
  echo "sleeping 1 second waiting for a database connection"
  sleep 1
done

echo "running migrations.."
node ./lib/bin/run-migrations.js

echo "logging server upgrade.."
node ./lib/bin/log-upgrade.js

echo "starting cron.."
cron -f &

echo "starting server."
exec node ./lib/bin/run-server.js
