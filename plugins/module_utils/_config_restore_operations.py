# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central's host to put files of its configuration back: all of them, or none.

Beside each file, in its directory, while a restore is under way::

    .NAME.odkops-new-TAG       what is to become of it
    .NAME.odkops-before-TAG    what it was: a link to the same content, or a copy where there are no links
    .NAME.odkops-absent-TAG    there was none before

First everything new is put beside what is there, then one file after the other gets its name by a rename. Undoing looks at what
there is, so it may be done at any moment, and again. Nothing is written through a symbolic link, and nothing outside of the
project's directory but below a path that is the last parameter, which a gate permits only where it was made with it.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, RESTORE, Operation

LOOK, CHECK, PUT, SWAP, SUMS, UNDO, FORGET = (
    *("config-look", "config-check", "config-put", "config-swap"),
    *("config-sums", "config-undo", "config-forget"),
)
#: behind the name of an operation: the one for files below a path that is its last parameter
ELSEWHERE = "-elsewhere"

#: of all names of one call, in characters
MOST_NAMES = 24_000

_START = r"""
set -u
umask 077
export LC_ALL=C
say() { printf '%s\n' "$1" >&2; exit 1; }

# locate NAME: where a file is, its name as base64. Sets
#   kind       file, absent, link, special (a directory or the like), through-link, through-file, no-directory
#   directory  of the file, and leaf, its name there
#   missing    how many directories have to be made for it, and highest, the first of them
#   new before absent   what is kept beside it
locate() {
  path=$(printf %s "$1" | base64 -d; echo /)
  path=${path%/}
  if [ -n "$root" ]; then
    case $path in "$root" | "$root"/*) ;; *) say "a file is not below the path that was named" ;; esac
    directory=${root%/*}
    left=${path#"$directory"/}
  else
    directory=.
    left=$path
  fi
  case /$left/ in
    *//* | */./* | */../* | */.git/* | */.odkops-restore/*) say "a file has a name that nothing is written to" ;;
  esac
  kind='' missing=0 highest=''
  if [ ! -d "$directory/" ]; then kind=no-directory; fi
  owner=$(stat -c %u:%g -- "$directory/" 2>/dev/null)
  while case $left in */*) ;; *) false ;; esac; do
    directory=$directory/${left%%/*}
    left=${left#*/}
    if [ -L "$directory" ]; then
      kind=through-link
    elif [ -d "$directory" ]; then
      owner=$(stat -c %u:%g -- "$directory")
    elif [ -e "$directory" ]; then
      kind=through-file
    else
      missing=$((missing + 1))
      if [ -z "$highest" ]; then highest=$directory; fi
    fi
  done
  leaf=$left
  target=$directory/$leaf
  if [ -n "$kind" ]; then
    :
  elif [ -L "$target" ]; then
    kind=link
  elif [ -f "$target" ]; then
    kind=file
  elif [ -e "$target" ]; then
    kind=special
  else
    kind=absent
  fi
  new=$directory/.$leaf.odkops-new-$tag
  before=$directory/.$leaf.odkops-before-$tag
  absent=$directory/.$leaf.odkops-absent-$tag
}
# each COMMAND: locates each of $names (NAME:DEPTH, commas between), and calls COMMAND.
each() {
  blank=$IFS
  IFS=,
  for one in $names; do
    IFS=$blank
    depth=${one##*:}
    locate "${one%%:*}"
    "$1"
  done
  IFS=$blank
}
"""

_CHECK = """
tag='' names=$1
show() { echo "$kind $missing ${#leaf}"; }
each show
"""

_PUT = """
tag=$1 mode=$2 size=$3 digest=$4
locate "$5"
case $kind in file | absent) ;; *) say "$target is no plain file, or the way there is a symbolic link" ;; esac
if [ "$missing" -gt 0 ]; then
  (umask 022 && mkdir -p -- "$directory") || say "$directory could not be made"
  if [ "$(stat -c %u:%g -- "$highest")" != "$owner" ]; then
    chown -R "$owner" -- "$highest" || say "$highest could not be given to the owner of what is above it"
  fi
fi
wrong() { rm -f -- "$new"; say "$1"; }
rm -f -- "$new"
head -c "$size" >"$new" || wrong "$target could not be written: see whether the disk is full, and who may write there"
[ "$(wc -c <"$new")" -eq "$size" ] && [ "$(sha256sum <"$new" | cut -c 1-64)" = "$digest" ] ||
  wrong "$target did not come whole"
if [ "$kind" = file ]; then
  owner=$(stat -c %u:%g -- "$target") && mode=$(stat -c %a -- "$target") || wrong "$target cannot be looked at"
fi
if [ "$(stat -c %u:%g -- "$new")" != "$owner" ]; then
  chown "$owner" -- "$new" || wrong "$target belongs to somebody else: restore as that user, or as root"
fi
chmod "$mode" -- "$new" && sync "$new" "$directory" || wrong "$target could not be written"
"""

_SWAP = """
tag=$1 names=$2
swap() {
  [ -f "$new" ] && [ ! -e "$before" ] && [ ! -e "$absent" ] || say "what was put beside $target has changed"
  case $kind in
    file)
      ln -- "$target" "$before" 2>/dev/null || {
        cp -p -- "$target" "$before.part" && sync "$before.part" && mv -f -- "$before.part" "$before"
      } || say "what $target is could not be kept" ;;
    absent) : >"$absent" || say "$absent could not be made" ;;
    *) say "$target has become something else" ;;
  esac
  sync "$directory" && mv -f -- "$new" "$target" && sync "$directory" || say "$target could not be written"
}
each swap
"""

_SUMS = """
tag='' names=$1
show() { if [ "$kind" = file ]; then sha256sum <"$target" | cut -c 1-64; else echo "$kind"; fi; }
each show
"""

_UNDO = """
tag=$1 names=$2
undo() {
  case $kind in through-* | no-directory) return ;; esac
  rm -f -- "$new" "$before.part" || say "$new cannot be removed"
  if [ -e "$before" ]; then
    if [ "$before" -ef "$target" ]; then rm -f -- "$before"; else mv -f -- "$before" "$target"; fi ||
      say "$target cannot be put back"
  elif [ -e "$absent" ]; then
    rm -f -- "$target" && sync "$directory" && rm -f -- "$absent" || say "$target cannot be removed"
  fi
  if [ -d "$directory" ]; then sync "$directory"; fi
  while [ "$depth" -gt 0 ] && rmdir -- "$directory" 2>/dev/null; do
    depth=$((depth - 1))
    directory=${directory%/*}
  done
}
each undo
"""

_FORGET = """
tag=$1 keep=$2 names=$3
forget() {
  rm -f -- "$new" "$absent" || say "$absent cannot be removed"
  if [ -e "$before" ]; then
    if [ "$keep" = keep ]; then mv -f -- "$before" "$target.before-$tag"; else rm -f -- "$before"; fi ||
      say "$before cannot be removed"
  fi
  if [ -d "$directory" ]; then sync "$directory"; fi
}
each forget
"""

# The records are those of _config_operations.py.
_LOOK = """
limit=$1 tag='' names=$2
show() {
  case $kind in
    file)
      printf 'file named %s %s\\n' "${one%%:*}" "$(stat -L -c '%a %Y %s' -- "$target")"
      head -c "$limit" <"$target" | base64
      printf 'end %s %s\\n' 0 "$(stat -L -c '%Y %s' -- "$target")" ;;
    absent | no-directory) printf 'absent named %s\\n' "${one%%:*}" ;;
    *) printf 'special named %s\\n' "${one%%:*}" ;;
  esac
}
each show
"""

_TAG = r"[0-9a-f]{8,32}"
_NAME = r"[A-Za-z0-9+/]+={0,2}"
_NAMES = rf"{_NAME}:[0-9]{{1,3}}(?:,{_NAME}:[0-9]{{1,3}})*"
_ABSOLUTE = r"(?:/[^/\n]+)+"

_SCRIPTS: dict[str, tuple[str, tuple[str, ...]]] = {
    CHECK: (_CHECK, (_NAMES,)),
    PUT: (_PUT, (_TAG, r"[0-7]{3,4}", r"[0-9]{1,12}", r"[0-9a-f]{64}", _NAME)),
    SWAP: (_SWAP, (_TAG, _NAMES)),
    SUMS: (_SUMS, (_NAMES,)),
    UNDO: (_UNDO, (_TAG, _NAMES)),
    FORGET: (_FORGET, (_TAG, r"keep|drop", _NAMES)),
}


def _elsewhere(name: str) -> Operation:
    script, parameters = _SCRIPTS[name]
    last = f"root=${{{len(parameters) + 1}}}\n"
    return Operation(name + ELSEWHERE, HOST, last + _START + script, (*parameters, _ABSOLUTE), RESTORE)


OPERATIONS: tuple[Operation, ...] = (
    Operation(LOOK, HOST, "root=''\n" + _START + _LOOK, (r"[0-9]{1,10}", _NAMES), RESTORE),
    *(
        Operation(name, HOST, "root=''\n" + _START + script, given, RESTORE)
        for name, (script, given) in _SCRIPTS.items()
    ),
    *(_elsewhere(name) for name in _SCRIPTS),
)
