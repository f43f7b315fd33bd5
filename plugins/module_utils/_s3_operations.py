# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central for its objects in S3: its settings are read, and its database is asked what it still has.

Source: getodk/central, files/service/config.json.template and files/service/scripts/start-odk.sh (``/usr/odk/config/local.json``
is made from the environment at the start, and is what Central uses); getodk/central-backend, lib/external/s3.js.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import Operation
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_operations import SETTINGS

S3_SETTINGS = "s3-settings"
BLOBS_IN_DATABASE = "blobs-in-database"

#: ids that :data:`BLOBS_IN_DATABASE` takes at a time
IDS_AT_ONCE = 500

# One JSON object: nothing of the file but what is about S3. A Central from before S3 has none of it, and answers {}.
_READ_SETTINGS = """\
exec node -e '
const fs = require("node:fs");
let store = {};
try {
  const config = JSON.parse(fs.readFileSync("/usr/odk/config/local.json", "utf8"));
  store = ((config.default || config).external || {}).s3blobStore || {};
} catch (error) {
  if (error.code !== "ENOENT") throw new Error("config/local.json cannot be read");
}
const env = process.env;
process.stdout.write(JSON.stringify({
  server: store.server || env.S3_SERVER || "",
  bucket: store.bucketName || env.S3_BUCKET_NAME || "",
  access_key: store.accessKey || env.S3_ACCESS_KEY || "",
  secret_key: store.secretKey || env.S3_SECRET_KEY || "",
  prefix: store.objectPrefix || "",
}));
'
"""

# The ids are digits and commas, as the pattern below sees to. One line for each that is there.
_ASK_DATABASE = """\
export PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-20}"
exec psql --no-psqlrc --no-align --tuples-only --quiet --no-password --set ON_ERROR_STOP=1 --command \\
  "SELECT id FROM blobs WHERE id IN ($1) ORDER BY id"
"""

OPERATIONS: tuple[Operation, ...] = (
    Operation(S3_SETTINGS, "service", _READ_SETTINGS),
    Operation(BLOBS_IN_DATABASE, "service", SETTINGS + _ASK_DATABASE, (r"[0-9]{1,10}(?:,[0-9]{1,10}){0,499}",)),
)
