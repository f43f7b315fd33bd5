#!/usr/bin/mawk -f
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Replaces ${NAME} by the environment's value. A name that is not set is an error, unlike with envsubst.
{
  rest = $0
  line = ""
  while (match(rest, /\$\{[A-Z_][A-Z_0-9]*\}/)) {
    name = substr(rest, RSTART + 2, RLENGTH - 3)
    if (!(name in ENVIRON)) {
      printf "envsub: line %d: %s is not set\n", NR, name > "/dev/stderr"
      missing = 1
    }
    line = line substr(rest, 1, RSTART - 1) ENVIRON[name]
    rest = substr(rest, RSTART + RLENGTH)
  }
  print line rest
}
END { exit missing }
