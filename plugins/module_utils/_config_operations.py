# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central to read its configuration. It changes nothing.

The output is lines of records; _config_records.py reads them. Names, link targets and contents are base64, so that
neither a strange name nor a file that changes meanwhile can be mistaken for something else::

    file ORIGIN NAME MODE MTIME SIZE     then lines of content, then: end STATUS MTIME SIZE
    large ORIGIN NAME SIZE               a file of more bytes than the limit
    link ORIGIN NAME TARGET              a symbolic link that is not followed
    absent ORIGIN NAME
    special ORIGIN NAME                  neither a file nor a link
    more ORIGIN COUNT                    so many files in all, of which only the first ones follow
    output NAME                          then lines of content, then: end. The content is what a command printed,
                                         a line feed, and its exit status

Sources of what lies where: getodk/central, docker-compose.yml and .gitignore of v2023.1 to v2026.1.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Operation

#: the operation that reads a path anywhere on the host; a gate permits only the paths it was made with
EXTRA_PATHS = "config-extra"

#: how many files are read that git does not know, and those below an extra path
MOST_UNTRACKED = 500
MOST_EXTRA = 2000

#: read whether git knows them or not, and missed where they are not there
FIXED = (
    ".env",
    "docker-compose.yml",
    "docker-compose.override.yml",
    "files/nginx/odk.conf.template",
    "files/nginx/client-config.json.template",
    "files/mail/rsa.private",
    "files/allow-postgres14-upgrade",
)
#: read with all that is in them; DKIM keys were in the second one before v2023.4
FIXED_DIRECTORIES = ("files/local/customssl", "files/dkim")

# Reads the files that are its arguments. Called by xargs and find, which pass on any name.
_READ = r"""
read_files='
origin=$1 limit=$2
shift 2
for path do
  name=$(printf %s "$path" | base64 | tr -d "\n")
  if [ -L "$path" ] && [ "$origin" != fixed ] && [ "$origin" != extra ]; then
    printf "link %s %s %s\n" "$origin" "$name" "$(readlink -- "$path" | base64 | tr -d "\n")"
  elif [ -f "$path" ]; then
    about=$(stat -L -c "%a %Y %s" -- "$path") || exit 1
    if [ "${about##* }" -gt "$limit" ]; then
      printf "large %s %s %s\n" "$origin" "$name" "${about##* }"
    else
      printf "file %s %s %s\n" "$origin" "$name" "$about"
      base64 <"$path"
      printf "end %s %s\n" "$?" "$(stat -L -c "%Y %s" -- "$path")"
    fi
  elif [ -e "$path" ] || [ -L "$path" ]; then
    printf "special %s %s\n" "$origin" "$name"
  else
    printf "absent %s %s\n" "$origin" "$name"
  fi
done
'
# read_list ORIGIN MOST: reads the files whose names come with a NUL behind each.
read_list() {
  list=$(tr '\n\0' '\001\n' | sort -u; echo end)
  list=${list%end}
  count=$(printf %s "$list" | wc -l)
  if [ "$count" -gt "$2" ]; then printf 'more %s %s\n' "$1" "$count"; fi
  printf %s "$list" | head -n "$2" | tr '\001\n' '\n\0' | xargs -0 sh -c "$read_files" read "$1" "$limit"
}
"""

_OUTPUT = r"""
# output NAME COMMAND...: what a command prints, and its exit status.
output() {
  printf 'output %s\n' "$(printf %s "$1" | base64 | tr -d '\n')"
  shift
  { "$@"; printf '\n%s' "$?"; } | base64
  printf 'end\n'
}
"""

# With --git-dir, git does not ask who owns the checkout. The index is not written. Of what its configuration names, only filters
# are run, without which files would look changed.
_GIT = r"""
git_here() {
  git --git-dir=.git --work-tree=. --no-pager --no-optional-locks -c core.fsmonitor=false -c core.hooksPath=/dev/null \
    -c core.quotePath=false -c 'safe.directory=*' "$@"
}
git_status() {
  git_here status --porcelain --untracked-files=normal 2>/dev/null ||
    git_here status --porcelain --untracked-files=normal --ignore-submodules=dirty
}
git_unpublished() {
  if [ "$(git_here rev-list --count HEAD --not --remotes --tags)" -gt 0 ]; then
    git_here bundle create - HEAD --not --remotes --tags
  fi
}
if [ ! -e .git ]; then
  echo no-git
elif ! command -v git >/dev/null 2>&1; then
  echo no-git-command
elif ! git_here rev-parse --verify --quiet HEAD >/dev/null; then
  echo no-commit
else
  echo git
  output git/commit git_here rev-parse HEAD
  output git/describe git_here describe --tags --always
  output git/branch git_here rev-parse --abbrev-ref HEAD
  output git/status git_status
  output git/changes.diff git_here diff --binary --no-ext-diff --no-textconv --ignore-submodules=dirty HEAD
  output git/submodules git_here ls-tree -r HEAD client server
  output git/submodules.diff git_here submodule --quiet foreach --recursive \
    'git --no-pager -c core.fsmonitor=false diff --binary --no-ext-diff --no-textconv HEAD'
  output git/unpublished.bundle git_unpublished
  git_here ls-files --others --exclude-standard >/dev/null || exit 4
  git_here diff --name-only -z --diff-filter=d --no-ext-diff --ignore-submodules=all HEAD | read_list edited "$most"
  git_here ls-files -z --others --exclude-standard | read_list untracked "$most"
  exit
fi
# Without a commit to compare with, all that a checkout has besides the sources of the programs.
{
  find . -maxdepth 1 -type f '(' -name '*.yml' -o -name '*.yaml' -o -name '*.dockerfile' -o -name '.env*' ')' -print0
  if [ -d files ]; then find files -type f -print0; fi
} | read_list unversioned "$most"
"""

_FILES = (
    "set -u\nlimit=$1\n"
    + f"most={MOST_UNTRACKED}\n"
    + _READ
    + _OUTPUT
    + f'sh -c "$read_files" read fixed "$limit" {" ".join(FIXED)} || exit\n'
    + f"for directory in {' '.join(FIXED_DIRECTORIES)}; do\n"
    + '  if [ -d "$directory" ]; then find -L "$directory" -type f -print0 >/dev/null || exit 3\n'
    + '    find -L "$directory" -type f -print0 | read_list fixed "$most" || exit\n'
    + "  else printf 'absent fixed %s\\n' \"$(printf %s \"$directory\" | base64 | tr -d '\\n')\"; fi\n"
    + "done\n"
    + _GIT
)

_EXTRA = (
    "set -u\nlimit=$1 path=$2\n"
    + f"most={MOST_EXTRA}\n"
    + _READ
    + """
if [ -d "$path" ]; then
  find -L "$path" -type f -print0 >/dev/null || exit 3
  find -L "$path" -type f -print0 | read_list extra "$most"
else
  sh -c "$read_files" read extra "$limit" "$path"
fi
"""
)

_COMPOSE = (
    _OUTPUT
    + """
output compose/config.yml compose config
output compose/config.json compose config --format json
output compose/images.json compose images --format json
output compose/version compose version --short
output compose/directory sh -c 'pwd; pwd -P'
"""
)

# Where nginx has it, and where the images of v2023 and earlier have it not.
_VERSION = _OUTPUT + "output version.txt cat /usr/share/nginx/html/version.txt\n"

_LIMIT = r"[0-9]{1,10}"
_ABSOLUTE = r"(?:/[^/\n]+)+"

#: the first parameter: the size in bytes up to which a file is read
OPERATIONS: tuple[Operation, ...] = (
    Operation("config-files", HOST, _FILES, (_LIMIT,)),
    Operation(EXTRA_PATHS, HOST, _EXTRA, (_LIMIT, _ABSOLUTE)),
    Operation("config-compose", HOST, _COMPOSE),
    Operation("config-version", "nginx", _VERSION),
)
