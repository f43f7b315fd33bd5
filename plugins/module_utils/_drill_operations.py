# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed in the Central of a drill to check it. Each only asks, but for the account that is made.

What may be secret, such as passwords, tokens and the ids of links, comes on stdin and is in no process's arguments.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import RESTORE, Operation

FACTS, OBJECTS, MIGRATIONS = "drill-facts", "drill-objects", "drill-migrations"
ACCOUNT, ASK, REACH = "drill-account", "drill-ask", "drill-reach"

# One JSON object. Of a form that is closing or closed, Central gives Enketo nothing.
# Columns that older Centrals do not have are asked for through to_jsonb(); that of blobs, whose rows may be large, by a name
# which means a column of `older` where blobs has none.
# $1 is the seed of the sample, $2 how many attachments are in it at most.
_FACTS = """\
exec psql --no-psqlrc --no-align --tuples-only --quiet --no-password --set ON_ERROR_STOP=1 \\
  --set seed="$1" --set most="$2" <<'SQL'
WITH alive AS (
  SELECT f.*, p.id AS project FROM public.forms f JOIN public.projects p ON p.id = f."projectId"
  WHERE f."deletedAt" IS NULL AND p."deletedAt" IS NULL
), sent AS (
  SELECT s.* FROM public.submissions s
  WHERE to_jsonb(s) ->> 'deletedAt' IS NULL AND coalesce(to_jsonb(s) ->> 'draft', 'false') = 'false'
), sample AS (
  SELECT f.project, f."xmlFormId" AS form, s."instanceId" AS instance, a.name, b.id AS blob, b.sha,
    b.status = 'uploaded' AS in_s3
  FROM public.submission_attachments a
  JOIN public.submission_defs d ON d.id = a."submissionDefId" AND d.current
  JOIN sent s ON s.id = d."submissionId"
  JOIN alive f ON f.id = s."formId"
  JOIN (SELECT x.id, x.sha, x.status FROM (SELECT ''::text AS s3_status) older
    CROSS JOIN LATERAL (SELECT id, sha, s3_status::text AS status FROM public.blobs) x) b ON b.id = a."blobId"
  ORDER BY md5(:'seed' || a."blobId"::text || a.name), a."blobId" LIMIT :most
)
SELECT json_build_object(
  'migrations', (SELECT json_agg(name ORDER BY name) FROM public.knex_migrations),
  'projects', (SELECT count(*) FROM public.projects WHERE "deletedAt" IS NULL),
  'forms', (SELECT coalesce(json_agg(json_build_array(f.project, f."xmlFormId", f."currentDefId" IS NOT NULL,
    (SELECT count(*) FROM sent s WHERE s."formId" = f.id))), '[]') FROM alive f),
  'links', (SELECT coalesce(json_agg(json_build_array(f.project, f."xmlFormId", to_jsonb(f) ->> 'enketoId',
    to_jsonb(f) ->> 'enketoOnceId', NULL, f.state = 'open')), '[]') FROM alive f WHERE to_jsonb(f) ->> 'enketoId' IS NOT NULL),
  'drafts', (SELECT coalesce(json_agg(json_build_array(f.project, f."xmlFormId", to_jsonb(d) ->> 'enketoId', NULL,
    to_jsonb(d) ->> 'draftToken', true)), '[]') FROM alive f JOIN public.form_defs d ON d.id = f."draftDefId"
    WHERE to_jsonb(d) ->> 'enketoId' IS NOT NULL AND to_jsonb(d) ->> 'draftToken' IS NOT NULL),
  'public_links', (SELECT coalesce(json_agg(json_build_array(f.project, f."xmlFormId",
      CASE WHEN coalesce(to_jsonb(l) ->> 'once', 'false') = 'true' THEN to_jsonb(f) ->> 'enketoOnceId'
        ELSE to_jsonb(f) ->> 'enketoId' END, coalesce(to_jsonb(l) ->> 'once', 'false') = 'true', s.token)), '[]')
    FROM public.public_links l JOIN alive f ON f.id = l."formId" AND f.state = 'open'
    JOIN public.sessions s ON s."actorId" = l."actorId"),
  'attachments', (SELECT count(*) FROM public.submission_attachments WHERE "blobId" IS NOT NULL),
  'sample', (SELECT coalesce(json_agg(row_to_json(x)), '[]') FROM sample x),
  'bytes', pg_database_size(current_database()),
  'identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'connected', (SELECT json_agg(DISTINCT coalesce(host(client_addr), 'local')) FROM pg_stat_activity
    WHERE backend_type = 'client backend')
);
SQL
"""

# The ids of the blobs that the database says are in S3, a line each.
_OBJECTS = """\
exec psql --no-psqlrc --quiet --no-password --set ON_ERROR_STOP=1 <<'SQL'
COPY (
  SELECT b.id FROM (SELECT ''::text AS s3_status) older
  CROSS JOIN LATERAL (SELECT id, s3_status::text AS status FROM public.blobs) b
  WHERE b.status = 'uploaded'
) TO STDOUT
SQL
"""

# The migrations that the Central there can make, one a line.
_MIGRATIONS = """\
if [ -d lib/model/migrations ]; then ls lib/model/migrations | grep "\\.js$"; fi
"""

# $1 is the account's address; its password is the first line on stdin.
_ACCOUNT = """\
IFS= read -r password
said=$(printf '%s\\n' "$password" | odk-cmd --email "$1" user-create 2>&1) &&
  said=$(odk-cmd --email "$1" user-promote 2>&1 </dev/null) || {
  printf '%s\\n' "$said" | tail -n 3 | cut -c 1-300 | tr '\\n' ' ' >&2
  exit 1
}
"""

# One JSON object on stdin: `ca` (PEM), `requests`: [{who, method, path, headers, body, keep}], four at a time. $1 is the time
# for each in seconds. `who` is nginx, with the certificate of the drill, or enketo. Redirections are followed, without the
# headers. Prints a JSON object a line: number, status (0 where there is no answer), size, sha1, and the body of those to be kept.
_ASK = """\
exec node -e '
const http = require("http"), https = require("https"), crypto = require("crypto");
const seconds = Number(process.argv[1]);
const domain = process.env.DOMAIN;
let text = "";
process.stdin.on("data", (data) => { text += data; }).on("end", () => {
  const { ca, requests } = JSON.parse(text);
  const once = (asked, done) => {
    const body = asked.body === undefined ? undefined : JSON.stringify(asked.body);
    const target = asked.url === undefined ? null : new URL(asked.url);
    const headers = { Host: target ? target.host : domain, ...asked.headers };
    if (body !== undefined) { headers["Content-Type"] = "application/json"; headers["Content-Length"] = Buffer.byteLength(body); }
    const ways = {
      nginx: [https, { host: "nginx", port: 443, servername: domain, ca }],
      enketo: [http, { host: "enketo", port: 8005 }],
    };
    const [library, where] = target ? [target.protocol === "https:" ? https : http, { host: target.hostname, port: target.port }]
      : ways[asked.who];
    const path = target ? target.pathname + target.search : asked.path;
    let over = false;
    const finish = (answer) => { if (!over) { over = true; clearTimeout(timer); done(answer); } };
    const request = library.request({ ...where, method: asked.method || "GET", path, headers }, (response) => {
      if ([301, 302, 303, 307, 308].includes(response.statusCode) && asked.follow && response.headers.location) {
        response.resume();
        if (asked.hops > 2) { finish({ status: 0, error: "too many redirections" }); return; }
        over = true;
        clearTimeout(timer);
        once({ method: "GET", url: new URL(response.headers.location, "https://" + domain + path).href, follow: true,
          hops: (asked.hops || 0) + 1, keep: asked.keep, headers: {} }, done);
        return;
      }
      const sha1 = crypto.createHash("sha1");
      let size = 0;
      const kept = [];
      response.on("data", (piece) => {
        size += piece.length;
        sha1.update(piece);
        if (asked.keep && size < 8000000) kept.push(piece);
      });
      response.on("end", () => finish({ status: response.statusCode, size, sha1: sha1.digest("hex"),
        body: asked.keep ? Buffer.concat(kept).toString("utf8") : undefined }));
      response.on("error", (error) => finish({ status: 0, error: error.message }));
    });
    const timer = setTimeout(() => request.destroy(new Error("no answer in time")), seconds * 1000);
    request.on("error", (error) => finish({ status: 0, error: error.message }));
    request.end(body);
  };
  let next = 0;
  const work = () => {
    if (next >= requests.length) return;
    const number = next++;
    once(requests[number], (answer) => { console.log(JSON.stringify({ number, ...answer })); work(); });
  };
  for (let each = 0; each < 4; each += 1) work();
});
' "$1"
"""

# Lines "host port" on stdin. Prints for each what became of a connection within three seconds: `open`, or why there is none.
_REACH = """\
exec node -e '
const net = require("net"), dns = require("dns");
const resolver = new dns.Resolver({ timeout: 1000, tries: 1 });
let text = "";
process.stdin.on("data", (data) => { text += data; }).on("end", () => {
  const lines = text.split("\\n").filter(Boolean);
  const found = new Array(lines.length);
  let left = lines.length;
  lines.forEach((line, index) => {
    const [host, port] = line.split(" ");
    const finish = (word) => {
      if (found[index] !== undefined) return;
      found[index] = word;
      left -= 1;
      if (left === 0) { console.log(found.join("\\n")); process.exit(0); }
    };
    setTimeout(() => finish("silent"), 3000);
    const connect = (address) => {
      const socket = net.connect({ host: address, port: Number(port) });
      socket.on("connect", () => finish("open"));
      socket.on("error", (error) => finish(error.code || "error"));
    };
    if (net.isIP(host)) connect(host);
    else resolver.resolve4(host, (error, found) => { if (error) finish(error.code || "error"); else connect(found[0]); });
  });
});
'
"""

_SEED, _MOST, _SECONDS = r"[0-9A-Za-z.-]{1,64}", r"[0-9]{1,9}", r"[0-9]{1,4}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(FACTS, "service", _FACTS, (_SEED, _MOST), RESTORE),
    Operation(OBJECTS, "service", _OBJECTS, (), RESTORE),
    Operation(MIGRATIONS, "service", _MIGRATIONS, (), RESTORE),
    Operation(ACCOUNT, "service", _ACCOUNT, (r"[a-z0-9.-]{1,60}@[a-z0-9.-]{1,60}",), RESTORE),
    Operation(ASK, "service", _ASK, (_SECONDS,), RESTORE),
    Operation(REACH, "service", _REACH, (), RESTORE),
)
