# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central to back Enketo up: in the container of its Redis, and where its secrets are.

The scripts need a POSIX shell and what Redis's own images have. They serve Redis 5 to 8. `redis-cli` ends
with 0 whatever the server answers (before version 7 always), so answers are looked at, not exit statuses.

Why the export is a Lua script: `redis-cli --raw` separates what it prints by line feeds, which values may
have in them. One bulk string it prints as it is. So the script reads a page of keys, each with type, expiry and
value at one moment, since nothing else runs meanwhile, and gives all of it as one string of netstrings
(``5:hello``). ``DUMP`` would be simpler, but what it gives only a Redis of the same or a later version can take.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import Operation, watched

#: the service of Redis that keeps Enketo's links
REDIS = "enketo_redis_main"

#: names and sizes in bytes, as Enketo's start script demands them (getodk/central, files/enketo/start-enketo.sh)
SECRETS = {"enketo-secret": 64, "enketo-less-secret": 32, "enketo-api-key": 128}

#: the most that a key may have: elements, and bytes of all of them
MAXIMUM_ELEMENTS = 200_000
MAXIMUM_BYTES = 16 * 1024 * 1024

# Keys that SCAN looks at in one call, during which Redis serves nobody else: some milliseconds.
_PAGE = 500

# Up to here, in bytes of memory, SAVE is a matter of a second or two, and its answer leaves no doubt. A BGSAVE that
# fails makes Redis refuse what Enketo writes (stop-writes-on-bgsave-error), and needs memory for a copy.
_SAVE_UP_TO = 256 * 1024 * 1024

# Waits for Redis, at most as many seconds as the first parameter says.
READY = """\
cli() { redis-cli --raw "$@" | tr -d '\\r'; }
nap() { sleep 0.2 2>/dev/null || sleep 1; }
limit=$(($(date +%s) + $1))
while :; do
  answer=$(cli PING)
  case $answer in
    PONG) break ;;
    LOADING*) [ "$(date +%s)" -lt "$limit" ] && nap && continue ;;
  esac
  [ -z "$answer" ] || printf '%s\\n' "$answer" >&2
  exit 1
done
field() { cli INFO "$1" | sed -n "s/^$2://p"; }
setting() {
  found=$(cli CONFIG GET "$1")
  case $found in
    "$1
"*) printf '%s\\n' "$found" | sed -n 2p ;;
    *) printf '%s\\n' "$2" ;;
  esac
}
dir=$(setting dir /data)
file=$dir/$(setting dbfilename enketo-main.rdb)
free() { df -Pk "$dir" 2>/dev/null | { read -r _ && read -r _ _ _ free _ && printf '%s\\n' "$free"; }; }
printf 'redis_version %s\\n' "$(field server redis_version)"
memory=$(field memory used_memory)
printf 'memory %s\\n' "$memory"
"""

_INFO = (
    READY
    + """\
printf 'free %s\\n' "$(free)"
printf 'saving %s\\n' "$(field persistence rdb_bgsave_in_progress)"
printf 'keys %s\\n' "$(cli INFO keyspace | sed -n 's/^db[0-9]*:keys=\\([0-9]*\\).*/\\1/p' | tr '\\n' ' ')"
[ ! -f "$file" ] || printf 'size %d\\n' "$(wc -c <"$file")"
printf '\\n'
"""
)

_RDB = (
    READY
    + f"""\
failed() {{
  printf 'failed %s\\nanswer %s\\nfree %s\\n\\n' "$1" "$(printf %s "$2" | tr '\\n' ' ')" "$(free)"
  exit 0
}}
late() {{ [ "$(date +%s)" -ge "$limit" ]; }}
method=$2
if [ "$method" = auto ]; then
  method=save
  [ "$memory" -le {_SAVE_UP_TO} ] || method=bgsave
fi
while :; do
  before=$(cli TIME | sed -n 1p)
  case $method in
    save) answer=$(cli SAVE) ;;
    *) answer=$(cli BGSAVE) ;;
  esac
  case $answer in
    OK | 'Background saving started'*) break ;;
    *'in progress'* | *'child process is active'*) ! late || failed busy "$answer" ;;
    *) failed save "$answer" ;;
  esac
  nap
done
if [ "$method" = bgsave ]; then
  while [ "$(field persistence rdb_bgsave_in_progress)" != 0 ]; do
    ! late || failed busy 'it still runs'
    nap
  done
  status=$(field persistence rdb_last_bgsave_status)
  [ "$status" = ok ] || failed save "rdb_last_bgsave_status is $status"
fi
[ -f "$file" ] && [ -r "$file" ] || failed missing "$file"
exec 3<"$file"
if command -v redis-check-rdb >/dev/null 2>&1; then
  if report=$(redis-check-rdb /proc/self/fd/3 2>&1); then
    check=ok
  else
    check="failed $(printf '%s\\n' "$report" | grep '^\\[offset' | tail -n 1)"
  fi
else
  check=absent
fi
printf 'method %s\\nbefore %s\\nsaved %s\\ncheck %s\\n' "$method" "$before" "$(cli LASTSAVE)" "$check"
printf 'size %d\\n\\n' "$(wc -c </proc/self/fd/3)"
cat /proc/self/fd/3
"""
)

_LUA = f"""\
local out = {{}}
local function put(text)
  text = tostring(text)
  out[#out + 1] = #text .. ":"
  out[#out + 1] = text
end
local function fields_expire(key, flat)
  for first = 1, #flat, 1000 do
    local names = {{}}
    for index = first, math.min(first + 999, #flat), 2 do names[#names + 1] = flat[index] end
    local left = redis.pcall("HPTTL", key, "FIELDS", #names, unpack(names))
    if left.err then return false end
    for _, each in ipairs(left) do
      if each >= 0 then return true end
    end
  end
  return false
end
local kinds = {{
  string = {{"STRLEN", "GET"}},
  list = {{"LLEN", "LRANGE", "0", "-1"}},
  set = {{"SCARD", "SMEMBERS"}},
  zset = {{"ZCARD", "ZRANGE", "0", "-1", "WITHSCORES"}},
  hash = {{"HLEN", "HGETALL"}},
}}
local function expires(key, left, now)
  if left < 0 then return "" end
  local at = redis.pcall("PEXPIRETIME", key)
  if type(at) ~= "number" then at = now + left end
  return string.format("%.0f", at)
end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local page = redis.call("SCAN", ARGV[1], "COUNT", ARGV[2])
for _, key in ipairs(page[2]) do
  local kind = redis.call("TYPE", key).ok
  local left = redis.call("PTTL", key)
  if kind ~= "none" and left ~= -2 then
    local how = kinds[kind]
    local value, problem = nil, ""
    if not how then
      problem = "of type " .. kind
    elseif redis.call(how[1], key) > (kind == "string" and {MAXIMUM_BYTES} or {MAXIMUM_ELEMENTS}) then
      problem = "too large"
    else
      value = redis.call(how[2], key, unpack(how, 3))
      if kind == "string" then value = {{value}} end
      local size = 0
      for _, each in ipairs(value) do size = size + #each end
      if size > {MAXIMUM_BYTES} then
        problem = "too large"
      elseif kind == "hash" and fields_expire(key, value) then
        problem = "of type hash with fields that expire"
      end
    end
    if problem ~= "" then value = {{problem}} kind = "refused" end
    put(kind)
    put(key)
    put(expires(key, left, now))
    put(#value)
    for _, each in ipairs(value) do put(each) end
  end
end
return {{page[1], table.concat(out)}}
"""

_EXPORT = (
    f"""\
exec 4>&1
keyspace=$(redis-cli --raw INFO keyspace | tr -d '\\r')
case $keyspace in
  '# Keyspace'*) ;;
  *)
    [ -z "$keyspace" ] || printf '%s\\n' "$keyspace" >&2
    exit 1
    ;;
esac
for db in $(printf '%s\\n' "$keyspace" | sed -n 's/^db\\([0-9][0-9]*\\):.*/\\1/p'); do
  printf '8:database%d:%s' "${{#db}}" "$db"
  cursor=0
  while :; do
    cursor=$(
      redis-cli --raw -n "$db" EVAL '{_LUA}' 0 "$cursor" {_PAGE} | {{
        IFS= read -r next || exit 1
        printf %s "$next"
        case $next in
          *[!0-9]*) exit 1 ;;
        esac
        cat >&4
      }}
    ) || {{
      [ -z "$cursor" ] || printf '%s\\n' "$cursor" >&2
      exit 1
    }}
    [ "$cursor" != 0 ] || break
  done
done
printf 3:end
"""
)  # fmt: skip

# Sizes before contents. Of what is far too large, the size is enough.
_SECRETS = f"""\
for name in {" ".join(SECRETS)}; do
  file=/etc/secrets/$name
  size=absent
  [ ! -e "$file" ] || size=$(wc -c <"$file") || exit 1
  printf '%s %s\\n' "$name" "$size"
  if [ "$1" = contents ] && [ -e "$file" ] && [ "$size" -le 1024 ]; then
    cat "$file" || exit 1
  fi
done
"""

_SECONDS = "[0-9]{1,5}"

OPERATIONS: tuple[Operation, ...] = (
    Operation("enketo-info", REDIS, _INFO, (_SECONDS,)),
    Operation("enketo-rdb", REDIS, watched(_RDB), (_SECONDS, "auto|save|bgsave")),
    Operation("enketo-export", REDIS, watched(_EXPORT)),
    Operation("enketo-secrets", "enketo", _SECRETS, ("sizes|contents",)),
    Operation("enketo-secrets-apart", "secrets", _SECRETS, ("sizes|contents",), run=True),
)
