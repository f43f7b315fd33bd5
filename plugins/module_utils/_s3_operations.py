# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central for its objects in S3: its settings are read, and its database is asked what it still has.

Source: getodk/central, files/service/config.json.template and files/service/scripts/start-odk.sh (``/usr/odk/config/local.json``
is made from the environment at the start, and is what Central uses); getodk/central-backend, lib/external/s3.js.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import Operation, watched
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_operations import SETTINGS

S3_SETTINGS = "s3-settings"
BLOBS_IN_DATABASE = "blobs-in-database"
BLOBS_IN_S3 = "blobs-in-s3"

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

# A line for each: id, SHA-1, MD5 and size, tab between them, \N for what is not known. A Central from before S3 has no column
# for it, and none of before v2026.2 one for the size. What is in S3 has no content, so that taking a row as a whole reads little.
_LIST = """\
export PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-20}"
ask() { psql --no-psqlrc --no-align --tuples-only --quiet --no-password --set ON_ERROR_STOP=1 --command "$1"; }
known=$(ask "SELECT count(*) FROM pg_attribute WHERE attrelid = 'blobs'::regclass AND attname = 's3_status'") || exit
if [ "$known" = 0 ]; then exit 0; fi
ask "COPY (SELECT id, sha, md5, to_jsonb(blobs) ->> 'size' FROM blobs WHERE s3_status = 'uploaded' ORDER BY id) TO STDOUT"
"""

OPERATIONS: tuple[Operation, ...] = (
    Operation(S3_SETTINGS, "service", _READ_SETTINGS),
    Operation(BLOBS_IN_DATABASE, "service", SETTINGS + _ASK_DATABASE, (r"[0-9]{1,10}(?:,[0-9]{1,10}){0,499}",)),
    Operation(BLOBS_IN_S3, "service", SETTINGS + watched(_LIST)),
)
