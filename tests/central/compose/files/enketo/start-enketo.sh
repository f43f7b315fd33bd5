#!/bin/bash -eu
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
set -o pipefail
require_size() {
  local file="/etc/secrets/$1" size
  if ! [ -f "$file" ]; then echo >&2 "!!! File not found: $file"; exit 1; fi
  size="$(stat -c %s "$file")"
  if [ "$size" != "$2" ]; then echo >&2 "!!! Unexpected file size: $file: expected $2 b, actual $size b"; exit 1; fi
}
if [ "${ENKETO_SECRETS-}" = danger-insecure ]; then
  echo "Skipping secrets check."
else
  require_size enketo-secret 64
  require_size enketo-less-secret 32
  require_size enketo-api-key 128
fi
base="https://${DOMAIN}"
[ "${HTTPS_PORT}" = 443 ] || base="${base}:${HTTPS_PORT}"
BASE_URL="$base" \
SECRET="$(cat /etc/secrets/enketo-secret)" \
LESS_SECRET="$(cat /etc/secrets/enketo-less-secret)" \
API_KEY="$(cat /etc/secrets/enketo-api-key)" \
/scripts/envsub.awk < "${ENKETO_SRC_DIR}/config/config.json.template" > "${ENKETO_SRC_DIR}/config/config.json"
echo "Starting enketo..."
exec node app.js
