# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central to put Enketo's links and secrets back, and to undo that.

What a restore leaves until it is over is named after its tag:

- in the volume of Redis, which is the working directory of its containers: ``odkops-before-TAG.rdb``, what Redis held
  before; ``odkops-before-TAG.name``, the name of the file that Redis loads; ``odkops-new-TAG.rdb``, what it is to load;
- in the volume of the secrets: ``.odkops-before-TAG/``, the secrets before, with owners and modes.

Each of them gets its name when it is whole and on the disk. Redis writes its file when it stops, so that it is
replaced in a container of its own while Redis does not run.

Source for Redis: redis/redis, src/redis-cli.c (pipeMode), src/multi.c, src/rdb.c. A transaction in which a command
cannot be queued is discarded as a whole (EXECABORT), and one whose EXEC never comes does nothing. FLUSHALL saves an
empty file at once where Redis is to save by itself, which is why the file before is kept under another name.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import READY, REDIS, SECRETS
from ansible_collections.odkops.central.plugins.module_utils._operation import RESTORE, Operation, watched

#: follows the three secrets in what the operation ``enketo-secrets-put`` reads
SECRETS_END = b"\nodkops-end-of-secrets\n"

# Of one file where `sync` takes one (coreutils 8.24, BusyBox 1.26), else of all.
_DURABLE = """\
durable() { sync "$@" 2>/dev/null || sync; }
"""

# As Central has it told its services; they are not secret.
_ADDRESS = """\
printf 'DOMAIN %s\\nHTTPS_PORT %s\\n' "${DOMAIN-}" "${HTTPS_PORT-}"
"""

_LOOK = (
    READY
    + """\
printf 'free %s\\n' "$(free)"
printf 'time %s\\n' "$(cli TIME | sed -n 1p)"
printf 'aof %s\\n' "$(field persistence aof_enabled)"
printf 'role %s\\n' "$(field replication role)"
printf 'databases %s\\n' "$(setting databases 16)"
printf 'keys %s\\n' "$(cli INFO keyspace | sed -n 's/^db[0-9]*:keys=\\([0-9]*\\).*/\\1/p' | tr '\\n' ' ')"
if [ "$(cd "$dir" && pwd -P)" = "$(pwd -P)" ]; then printf 'place ok\\n'; else printf 'place other\\n'; fi
[ ! -f "$file" ] || printf 'size %d\\nformat %s\\n' "$(wc -c <"$file")" "$(head -c 9 "$file" | tr -cd 'A-Z0-9')"
printf '\\n'
"""
)

# It reads from a pipe as from a file. What it says of a file of a later Redis is the same since version 3.
_RDB_CHECK = """\
if ! command -v redis-check-rdb >/dev/null 2>&1; then echo absent; exit 0; fi
said=$(redis-check-rdb /dev/stdin 2>&1) && { echo ok; exit 0; }
printf '%s\\n' "$said" | sed -n "s/^\\[offset [0-9]*\\] \\(Can't handle RDB format version [0-9]*\\).*/new \\1/p" | head -n 1
printf 'failed %s\\n' "$(printf '%s\\n' "$said" | grep '^\\[offset' | tail -n 1 | tr -cd ' -~' | cut -c 1-200)"
"""

_SAVE = """\
failed() {
  printf 'failed %s\\nanswer %s\\nfree %s\\n\\n' "$1" "$(printf %s "$2" | tr '\\n' ' ')" "$(free)"
  exit 0
}
while :; do
  answer=$(cli SAVE)
  case $answer in
    OK) break ;;
    *'in progress'* | *'child process is active'*) [ "$(date +%s)" -lt "$limit" ] || failed busy "$answer" ;;
    *) failed save "$answer" ;;
  esac
  nap
done
[ -f "$file" ] && [ -r "$file" ] || failed missing "$file"
"""

_SAVED = """\
durable "$file"
durable "$dir"
printf 'saved %s\\n\\n' "$(wc -c <"$file")"
"""

# Where it is kept already, Redis may have been changed since.
_KEEP = """\
umask 077
kept=$dir/odkops-before-$2.rdb
if [ ! -f "$kept" ]; then
"""

_KEPT = """\
exec 3<"$file"
printf '%s\\n' "${file##*/}" >"$dir/odkops-before-$2.name" || failed save 'it cannot be copied'
durable "$dir/odkops-before-$2.name"
cat <&3 >"$kept.new" || failed save 'it cannot be copied'
durable "$kept.new"
mv -f "$kept.new" "$kept" || failed save 'it cannot be renamed'
durable "$dir"
fi
printf 'kept %s\\n\\n' "$(wc -c <"$kept")"
"""

# Errors are counted, and so are replies: redis-cli ends with 0 in some cases of both. What is refused may be data, and so
# is not repeated.
_LOAD = """\
said=$(redis-cli --pipe --pipe-timeout 60 2>&1)
printf '%s\\n' "$said" | sed -n 's/^errors: \\([0-9]*\\), replies: \\([0-9]*\\).*/errors \\1\\nreplies \\2/p'
printf 'said %s\\n\\n' "$(
  printf '%s\\n' "$said" | grep -E '^(ERR|OOM|MISCONF|READONLY|NOAUTH|NOPERM|LOADING|BUSY|EXECABORT|Error|Could not)' |
    head -n 1 | sed 's/, with args beginning.*//' | tr -cd ' -~' | cut -c 1-200
)"
"""

_STAGE = (
    _DURABLE
    + """\
umask 077
new=odkops-new-$1.rdb
cat >"$new.part" || exit 1
[ "$(wc -c <"$new.part")" -eq "$2" ] || { echo 'the file has not come whole' >&2; exit 1; }
[ "$(sha256sum <"$new.part" | cut -d ' ' -f 1)" = "$3" ] || { echo 'the file has come changed' >&2; exit 1; }
durable "$new.part"
mv -f "$new.part" "$new" || exit 1
durable .
"""
)

# In a container of its own, while Redis does not run.
_INSTALL = (
    _DURABLE
    + """\
from=odkops-$2-$1.rdb
[ -f "$from" ] || { echo "there is no $from" >&2; exit 1; }
IFS= read -r name <"odkops-before-$1.name" || exit 1
case $name in '' | */* | .*) exit 1 ;; esac
like=$name
[ -e "$like" ] || like=.
owner=$(stat -c %u:%g "$like") || exit 1
mode=644
[ "$like" = . ] || mode=$(stat -c %a "$like") || exit 1
cp "$from" "odkops-put-$1" && chmod "$mode" "odkops-put-$1" || exit 1
[ "$(stat -c %u:%g "odkops-put-$1")" = "$owner" ] || chown "$owner" "odkops-put-$1" || exit 1
durable "odkops-put-$1"
mv -f "odkops-put-$1" "$name" || exit 1
durable .
"""
)

_REDIS_KEPT = """\
if [ -f "odkops-before-$1.rdb" ]; then echo kept; else echo none; fi
"""

# What tells that there is something to undo goes first.
_REDIS_FORGET = (
    _DURABLE
    + """\
rm -f "odkops-before-$1.rdb" && durable . &&
  rm -f "odkops-before-$1.rdb.new" "odkops-before-$1.name" "odkops-new-$1.rdb" "odkops-new-$1.rdb.part" "odkops-put-$1"
"""
)

_IN_SECRETS = (
    _DURABLE
    + f"""\
umask 077
cd /etc/secrets || exit 1
names='{" ".join(SECRETS)}'
sizes='{" ".join(map(str, SECRETS.values()))}'
before=.odkops-before-$1
new=.odkops-new-$1
"""
)

_SECRETS_KEEP = (
    _IN_SECRETS
    + """\
[ ! -d "$before" ] || exit 0
rm -rf "$before.new" && mkdir "$before.new" || exit 1
for name in $names; do
  [ -e "$name" ] || continue
  cp -p "$name" "$before.new/$name" || exit 1
  durable "$before.new/$name"
done
durable "$before.new"
mv "$before.new" "$before" || exit 1
durable .
"""
)

# Owner and mode are those of the secret that is replaced, or of another one that is there, or those that Central's own
# script gives. Each is complete on the disk before it gets its name. Prints which ones were others.
_SECRETS_PUT = (
    _IN_SECRETS
    + f"""\
rm -rf "$new" && mkdir "$new" || exit 1
cat >"$new/all" || exit 1
if [ "$(wc -c <"$new/all")" -ne {sum(SECRETS.values()) + len(SECRETS_END)} ] ||
  [ "$(tail -c {len(SECRETS_END)} "$new/all" | tr -d '\\n')" != {SECRETS_END.decode().strip()} ]; then
  rm -rf "$new"
  echo 'the secrets have not come whole' >&2
  exit 1
fi
there=
for name in $names; do [ ! -f "$name" ] || there=$name; done
skip=0
set -- $sizes
for name in $names; do
  dd if="$new/all" of="$new/$name" bs=1 skip="$skip" count="$1" 2>/dev/null || exit 1
  [ "$(wc -c <"$new/$name")" -eq "$1" ] || exit 1
  skip=$((skip + $1))
  shift
  like=$name
  [ -f "$like" ] || like=$there
  if [ -n "$like" ]; then
    mode=$(stat -c %a "$like") && owner=$(stat -c %u:%g "$like") || exit 1
    [ "$(stat -c %u:%g "$new/$name")" = "$owner" ] || chown "$owner" "$new/$name" || exit 1
    chmod "$mode" "$new/$name" || exit 1
  else
    chmod 644 "$new/$name" || exit 1
  fi
  durable "$new/$name"
done
for name in $names; do
  if [ -f "$name" ] && [ "$(cat "$name" && echo .)" = "$(cat "$new/$name" && echo .)" ]; then continue; fi
  mv -f "$new/$name" "$name" || exit 1
  echo "$name"
done
durable .
rm -rf "$new"
"""
)

_SECRETS_UNDO = (
    _IN_SECRETS
    + """\
if [ -d "$before" ]; then
  for name in $names; do
    if [ -f "$before/$name" ]; then
      cp -p "$before/$name" "$before/.put" || exit 1
      durable "$before/.put"
      mv -f "$before/.put" "$name" || exit 1
    else
      rm -f "$name" || exit 1
    fi
  done
  durable .
  echo undone
else
  echo none
fi
"""
)

_SECRETS_FORGET = (
    _IN_SECRETS
    + """\
if [ -d "$before" ]; then
  rm -rf "$before.gone" && mv "$before" "$before.gone" || exit 1
  durable .
fi
rm -rf "$before.gone" "$before.new" "$new"
"""
)

# Asks Enketo itself, on its own port, for the forms of links that come on stdin, one id a line: they are in no command line.
# The page of a link opens whatever its id is. The form does not: 404 where Redis has no such id.
# Node's own program is there, since Enketo runs on it. Prints one status a line, 0 where there is no answer.
_ANSWERS = """\
node -e '
const http = require("node:http");
const text = require("node:fs").readFileSync(0, "utf8");
if (!text.endsWith("\\nend\\n")) process.exit(1);
const ask = (id) => new Promise((resolve) => {
  const request = http.get({ host: "127.0.0.1", port: 8005, path: "/-/xform/" + id, timeout: 20000 }, (answer) => {
    answer.resume();
    resolve(answer.statusCode);
  });
  request.on("timeout", () => request.destroy());
  request.on("error", () => resolve(0));
});
(async () => {
  for (const id of text.split("\\n").slice(0, -2)) console.log(await ask(encodeURIComponent(id)));
})();
'
"""

_SECONDS = "[0-9]{1,5}"
_TAG = "[0-9a-f]{8,32}"

OPERATIONS: tuple[Operation, ...] = (
    Operation("enketo-address", "service", _ADDRESS),
    Operation("enketo-address-once", "service", _ADDRESS, run=True),
    Operation("enketo-look", REDIS, _LOOK, (_SECONDS,)),
    Operation("enketo-rdb-check", REDIS, _RDB_CHECK, purpose=RESTORE),
    Operation(
        "enketo-keep", REDIS, watched(_DURABLE + READY + _KEEP + _SAVE + _KEPT), (_SECONDS, _TAG), purpose=RESTORE
    ),
    Operation("enketo-load", REDIS, _LOAD, purpose=RESTORE),
    Operation("enketo-save", REDIS, watched(_DURABLE + READY + _SAVE + _SAVED), (_SECONDS,), purpose=RESTORE),
    Operation("enketo-rdb-stage", REDIS, _STAGE, (_TAG, "[0-9]{1,18}", "[0-9a-f]{64}"), purpose=RESTORE),
    Operation("enketo-rdb-install", REDIS, _INSTALL, (_TAG, "new|before"), purpose=RESTORE, run=True),
    Operation("enketo-redis-kept", REDIS, _REDIS_KEPT, (_TAG,), purpose=RESTORE, run=True),
    Operation("enketo-redis-forget", REDIS, _REDIS_FORGET, (_TAG,), purpose=RESTORE, run=True),
    Operation("enketo-secrets-keep", "secrets", _SECRETS_KEEP, (_TAG,), purpose=RESTORE, run=True),
    Operation("enketo-secrets-put", "secrets", _SECRETS_PUT, (_TAG,), purpose=RESTORE, run=True),
    Operation("enketo-secrets-undo", "secrets", _SECRETS_UNDO, (_TAG,), purpose=RESTORE, run=True),
    Operation("enketo-secrets-forget", "secrets", _SECRETS_FORGET, (_TAG,), purpose=RESTORE, run=True),
    Operation("enketo-answers", "enketo", _ANSWERS, purpose=RESTORE),
)
