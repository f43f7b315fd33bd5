# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central's host for the journal of a restore: it says what has to be undone after a crash.

The journal is the file ``.odkops-restore/journal.json`` in the project's directory, for its user only. It is beside the
Central that it belongs to, so that every later run finds it, from whichever host, after a reboot too. A line in it is on
the disk before what it announces is begun.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, RESTORE, Operation

READ, BEGIN, NOTE, END = "journal-read", "journal-begin", "journal-note", "journal-end"

#: of the journal, in bytes
LIMIT = 256 * 1024

#: what the first line of ``journal-read`` is where there is no journal, and what ``journal-begin`` and ``journal-note`` print
NONE, BEGUN, NOTED = "none", "begun", "noted"

_START = """\
set -u
umask 077
export LC_ALL=C
directory=.odkops-restore
file=$directory/journal.json
say() { echo "$1" >&2; exit 1; }
if [ -L "$directory" ]; then say "$directory in the project's directory is a symbolic link: remove it"; fi
"""

_READ = """\
if [ -e "$file" ]; then
  [ -f "$file" ] && [ -r "$file" ] || say "$file in the project's directory cannot be read by this user"
  echo journal
  head -c LIMIT "$file"
else
  [ -w . ] || say "this user may not write in the project's directory: restore as the user that owns it, or as root"
  [ ! -e "$directory" ] || [ -w "$directory" ] || say "this user may not write in $directory in the project's directory"
  echo none
fi
""".replace("LIMIT", str(LIMIT))

# All of it is there when its size is: what sends it may have died.
_STORE = """\
store() {
  mkdir -p "$directory" && new=$file.$2.new || say "the journal of the restore cannot be made in the project's directory"
  head -c "$1" >"$new" && [ "$(wc -c <"$new")" -eq "$1" ] && sync "$new" || {
    rm -f "$new"
    say "the journal of the restore could not be written: see whether the disk with the project's directory is full"
  }
}
"""

# A link fails where the name is taken: of two that begin, one does.
_BEGIN = """\
store "$1" "$2"
if ln "$new" "$file" 2>/dev/null; then
  rm -f "$new" && sync "$directory" . || exit 1
  echo begun
else
  rm -f "$new"
  [ -e "$file" ] || say "the journal of the restore could not be made in the project's directory"
  echo other
fi
"""

_OWN = """\
if ! grep -q "\\"tag\\": \\"$2\\"" "$file" 2>/dev/null; then echo other; exit 0; fi
"""

_NOTE = """\
store "$1" "$2"
mv -f "$new" "$file" && sync "$directory" || exit 1
echo noted
"""

_END = """\
rm -f "$file" "$directory"/journal.json.*.new && sync "$directory" || exit 1
rm -rf "$directory"/data.* 2>/dev/null
rmdir "$directory" 2>/dev/null
echo ended
"""

_SIZE = r"[1-9][0-9]{0,5}"
_TAG = r"[0-9a-f]{8,32}"

#: the parameters are the size of the journal in bytes and the tag of its run
OPERATIONS: tuple[Operation, ...] = (
    Operation(READ, HOST, _START + _READ),
    Operation(BEGIN, HOST, _START + _STORE + _BEGIN, (_SIZE, _TAG), RESTORE),
    Operation(NOTE, HOST, _START + _STORE + _OWN + _NOTE, (_SIZE, _TAG), RESTORE),
    Operation(END, HOST, _START + _OWN + _END, (r"0", _TAG), RESTORE),
)
