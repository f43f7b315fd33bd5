# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central to see whether it answers: one HTTP request from inside, by the node of ``service``."""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import RESTORE, Operation

ASK = "central-ask"

# One JSON object on stdin: method, path, headers, body (a text, or null), timeout in milliseconds.
# $1 is who is asked: `service` itself; `nginx`, as a browser would, by whatever name its certificate has.
# Prints the status, a line feed, and the beginning of the body; status 0 and what was wrong where no answer came.
_ASK = """\
exec node -e '
const http = require("http"), https = require("https");
const [who] = process.argv.slice(1);
const domain = process.env.DOMAIN || "localhost";
const port = process.env.HTTPS_PORT || "443";
const host = port === "443" ? domain : domain + ":" + port;
const ways = {
  service: [[http, { host: "127.0.0.1", port: 8383 }]],
  nginx: [
    [https, { host: "nginx", port: 443, servername: domain, rejectUnauthorized: false }],
    [http, { host: "nginx", port: 80 }],
  ],
};
let text = "";
process.stdin.on("data", (data) => { text += data; }).on("end", () => {
  const asked = JSON.parse(text);
  const attempt = (left) => {
    const [library, where] = left[0];
    const headers = { Host: host, "X-Forwarded-Proto": "https", ...asked.headers };
    if (asked.body !== null) headers["Content-Length"] = Buffer.byteLength(asked.body);
    const request = library.request({ ...where, method: asked.method, path: asked.path, headers, timeout: asked.timeout });
    let done = false;
    const finish = (status, body) => {
      if (done) return;
      done = true;
      process.stdout.write(status + "\\n" + body);
    };
    request.on("response", (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (piece) => { if (body.length < 100000) body += piece; });
      response.on("end", () => finish(response.statusCode, body));
      response.on("error", (error) => finish(0, String(error.message)));
    });
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
    request.on("error", (error) => {
      if (left.length > 1 && error.code === "ECONNREFUSED") attempt(left.slice(1));
      else finish(0, String(error.message));
    });
    request.end(asked.body === null ? undefined : asked.body);
  };
  attempt(ways[who]);
});
' "$1"
"""

OPERATIONS: tuple[Operation, ...] = (Operation(ASK, "service", _ASK, ("service|nginx",), RESTORE),)
