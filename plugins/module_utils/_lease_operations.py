# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central's host for the lease: who is at work on this Central. It changes nothing of the Central.

The lease is for one project directory. It is a line in a file, and each user of the host has a file of their own::

    /run/lock/odkops-central-<device>-<inode of the directory>.<uid>
    1 BOOT RENEWED LIFETIME SINCE RUN PURPOSE HOLDER

``RENEWED`` is the host's uptime in seconds, which no change of its clock moves, and ``BOOT`` the boot that it counts from: a
lease of an earlier boot is none. ``SINCE`` is for people, in seconds of 1970. The lease is held where the file of any user has
a line that was renewed less than ``LIFETIME`` seconds ago.

Why so: root and the user of a vault's gate must see each other's leases, without a directory that somebody has to make for
them first after each boot. In one where all may write, and which is sticky, each can change their own file only, so no other
user of the host can take a lease away, and root can. What has expired need not be removed to be passed over. One taker at a
time looks and writes, by flock(1) on the project's directory: that lock ends with the process, however it dies.
A container would not do: a restore stops them, and the lease has to outlive that.

Each operation prints one line, ``STATE`` alone or with what is known of the lease, ten fields separated by spaces::

    STATE RUN PURPOSE HOLDER SINCE NOW LEFT LIFETIME UID USER

``NOW`` is the host's clock, ``LEFT`` the seconds until the lease expires.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Operation

TAKE, RENEW, RELEASE, BREAK, SHOW = "lease-take", "lease-renew", "lease-release", "lease-break", "lease-show"

#: the states that operations print: of this run, of another one, of nobody
TAKEN, KEPT, RENEWED, RELEASED, BROKEN = "taken", "kept", "renewed", "released", "broken"
HELD, FREE, FORBIDDEN = "held", "free", "forbidden"

#: an argument of lease-break: whichever run it is
ANY = "-"

# What is read may be of any user of this host: nothing of it is used before it is known to be what we write.
_START = r"""
set -u
umask 022
export LC_ALL=C
say() { echo "$1" >&2; exit 1; }
command -v flock >/dev/null || say "there is no flock on this host: install util-linux"
[ -r . ] || say "the project's directory cannot be read by this user, and so not be locked"
exec 9<.
flock -w 20 9 || say "the project's directory stays locked by another process (flock)"
directory=/run/lock
[ "$(stat -L -c %a "$directory" 2>/dev/null)" = 1777 ] || directory=/tmp
base=$directory/odkops-central-$(stat -L -c %d-%i .) || exit 1
me=$(id -u)
own=$base.$me
read -r boot </proc/sys/kernel/random/boot_id || exit 1
read -r up rest </proc/uptime || exit 1
up=${up%%.*}

number() {
  case $1 in
    0) ;;
    '' | 0* | *[!0-9]* | ????????????*) return 1 ;;
  esac
}
# read_lease FILE: set the fields of the lease in it; fails where there is none that lives.
read_lease() {
  uid=${1##*.}
  if [ ! -f "$1" ] || [ -L "$1" ] || [ "$(stat -c %u "$1" 2>/dev/null)" != "$uid" ]; then return 1; fi
  booted='' renewed='' lifetime='' since='' run='' purpose='' holder=''
  read -r version booted renewed lifetime since run purpose holder <"$1" || return 1
  if [ "$version $booted" != "1 $boot" ]; then return 1; fi
  for word in "$renewed" "$lifetime" "$since"; do number "$word" || return 1; done
  for word in "$run" "$purpose" "$holder"; do
    case $word in '' | *[!A-Za-z0-9._:-]*) return 1 ;; esac
  done
  left=$((renewed + lifetime - up))
  [ "$renewed" -le "$up" ] && [ "$left" -gt 0 ]
}
find_lease() {
  for file in "$base".*; do
    case ${file##*.} in *[!0-9]*) continue ;; esac
    if read_lease "$file"; then return 0; fi
  done
  return 1
}
tell() {
  echo "$1 $run $purpose $holder $since $(date +%s) $left $lifetime $uid $(id -nu "$uid" 2>/dev/null || echo "$uid")"
}
tell_others() { if find_lease; then tell held; else echo free; fi; }
# The name appears by a rename, so that a reader, or a crash, finds a whole line or the one before.
write_lease() {
  renewed=$up uid=$me left=$lifetime
  rm -f "$own.new"
  (
    set -C
    echo "1 $boot $renewed $lifetime $since $run $purpose $holder" >"$own.new"
  ) && mv -f "$own.new" "$own"
}
"""

# Taking it again by the same run is renewing it.
_TAKE = """
if read_lease "$own" && [ "$run" = "$1" ]; then
  write_lease || exit 1
  tell kept
elif find_lease; then
  tell held
else
  run=$1 purpose=$2 holder=$3 lifetime=$4
  since=$(date +%s)
  write_lease || exit 1
  tell taken
fi
"""

# One that has expired is not renewed: somebody else may have had it, and be done, since.
_RENEW = """
if read_lease "$own" && [ "$run" = "$1" ]; then
  write_lease || exit 1
  tell renewed
else
  tell_others
fi
"""

_RELEASE = """
if read_lease "$own" && [ "$run" = "$1" ]; then
  rm -f "$own" || exit 1
  tell released
else
  tell_others
fi
"""

# Whether it may be done is asked first, so that it can be rehearsed.
_BREAK = """
if ! find_lease; then
  # What has expired is passed over, and only litter.
  if [ "$2" = really ]; then rm -f "$own"; fi
  echo free
elif [ "$1" != - ] && [ "$run" != "$1" ]; then
  tell held
elif [ "$me" != 0 ] && [ "$me" != "$uid" ]; then
  tell forbidden
else
  if [ "$2" = really ]; then rm -f "$file" || exit 1; fi
  tell broken
fi
"""

_RUN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_PURPOSE = r"[a-z]{1,20}"
_HOLDER = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
#: seconds, a day at most
_LIFETIME = r"[1-9][0-9]{0,3}|[1-7][0-9]{4}|8[0-5][0-9]{3}|86[0-3][0-9]{2}|86400"

#: the first parameter of most is the id of the run
OPERATIONS: tuple[Operation, ...] = (
    Operation(TAKE, HOST, _START + _TAKE, (_RUN, _PURPOSE, _HOLDER, _LIFETIME)),
    Operation(RENEW, HOST, _START + _RENEW, (_RUN,)),
    Operation(RELEASE, HOST, _START + _RELEASE, (_RUN,)),
    Operation(BREAK, HOST, _START + _BREAK, (rf"-|{_RUN}", "really|rehearse")),
    Operation(SHOW, HOST, _START + "tell_others\n"),
)
