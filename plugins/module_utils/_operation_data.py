# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Much data for an operation in a container of its own: past Docker, through a named pipe that both sides see.

What `docker compose run` is given on stdin is copied by Compose, by the daemon and by containerd, which together work as hard
as the one who reads it. So the container gets a directory with a named pipe as a read-only volume. Whether that works depends
on the host: a daemon on another one or in a virtual machine, SELinux, user namespaces. So the container tries, and says first
of all, on stdout, from where it reads. The data goes through Docker where it cannot.

The directory is for the host's user only, and is removed as soon as both sides have opened the pipe. Whoever dies leaves the
other one with an end of the data or a broken pipe, as with stdin.
"""

from __future__ import annotations

#: where the container has the directory with the pipe
_INSIDE = "/run/odkops-data"

_PIPED, _STDIN = "odkops-piped", "odkops-stdin"

# The variable by which the container knows that it is asked.
_ASKED = "ODKOPS_DATA"

#: Before the script in the container. The pipe is opened in a process of its own first: where it leads nowhere that would last.
#: Then for both ways, which never waits, even where the host's side has just died.
CHOICE = f"""\
if [ -n "${{{_ASKED}-}}" ]; then
  if timeout 10 sh -c ': <{_INSIDE}/data && : <>{_INSIDE}/data' 2>/dev/null; then
    exec 3<>{_INSIDE}/data <{_INSIDE}/data 3<&-
    echo {_PIPED}
  else
    echo {_STDIN}
  fi
fi
"""

#: On the host, instead of `exec {compose} run ...`. Descriptors: 5 what the container says; 6 and 7 both ends of the pipe and of
#: the container's stdin, so that nobody waits for anybody to open them; 8 and 9 their ends to write to, which break when the
#: reader is gone. The container's stdin stays open until it has ended.
RUN = f"""\
odkops_at=
case $(pwd -P) in
  *[!A-Za-z0-9/._-]*) ;;
  *)
    case $({{docker}} context inspect --format '{{{{{{{{.Endpoints.docker.Host}}}}}}}}' </dev/null 2>/dev/null) in
      unix://*) odkops_at=$(umask 077 && mktemp -d "$(pwd -P)/.odkops-restore/data.XXXXXX" 2>/dev/null) || odkops_at= ;;
    esac
    ;;
esac
if [ -n "$odkops_at" ]; then
  trap 'rm -rf "$odkops_at"' EXIT
  trap 'exit 143' HUP INT TERM
  mkdir -m 700 "$odkops_at/pipe" && mkfifo -m 600 "$odkops_at/in" "$odkops_at/out" "$odkops_at/pipe/data" || {{{{
    rm -rf "$odkops_at"
    odkops_at=
  }}}}
fi
if [ -z "$odkops_at" ]; then exec {{compose}} run --rm -T --no-deps --entrypoint sh {{place}} -c "$@"; fi
exec 6<>"$odkops_at/pipe/data" 7<>"$odkops_at/in"
{{compose}} run --rm -T --no-deps --volume "$odkops_at/pipe:{_INSIDE}:ro" --env {_ASKED}=1 \\
  --entrypoint sh {{place}} -c "$@" <"$odkops_at/in" >"$odkops_at/out" 6<&- 7<&- &
odkops_run=$!
exec 5<"$odkops_at/out"
IFS= read -r odkops_from <&5
exec 8>"$odkops_at/pipe/data" 9>"$odkops_at/in" 6<&- 7<&-
rm -rf "$odkops_at"
cat <&5 8>&- 9>&- &
odkops_said=$!
exec 5<&-
case $odkops_from in
  {_PIPED}) cat >&8 9>&- ;;
  {_STDIN}) exec 8>&-; cat >&9; exec 9>&- ;;
  *) exec 9>&-; odkops_from= ;;
esac
exec 8>&-
wait "$odkops_run"
odkops_status=$?
exec 9>&-
wait "$odkops_said"
if [ -z "$odkops_from" ] && [ "$odkops_status" -eq 0 ]; then
  echo "the container did not say from where it reads its data" >&2
  exit 1
fi
exit "$odkops_status"
"""
