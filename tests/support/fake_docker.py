# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A `docker` for unit tests: what it is asked to execute in a service runs on this host, in a directory of that service."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# It answers `docker compose ... exec|run|config|images`, and notes its arguments, one call per line, tab between them.
SCRIPT = r"""#!/bin/sh
here=$(dirname "$0")
for word in "$@"; do printf '%s\t' "$word" | tr '\n' ' '; done >>"$here/calls"
echo >>"$here/calls"
if [ "$1 $2" = "image inspect" ]; then [ -e "$here/images/$3" ]; exit; fi
if [ "$1" = version ]; then if [ -e "$here/broken" ]; then cat "$here/broken" >&2; exit 1; fi; exit 0; fi
if [ "$1" != compose ]; then echo "docker: '$1' is not a docker command." >&2; exit 1; fi
shift
project=unnamed
while :; do
  case $1 in
    -p) project=$2; shift 2 ;;
    -f) shift 2 ;;
    --project-directory) directory=$2; shift 2 ;;
    *) break ;;
  esac
done
if [ -e "$here/broken" ]; then cat "$here/broken" >&2; exit 1; fi
[ -e "$directory/docker-compose.yml" ] || { echo "no configuration file provided: not found" >&2; exit 14; }
command=$1
shift
case $command in
  exec) [ "$1" = -T ] || exit 97; place=$2; shift 2 ;;
  run)
    [ "$1 $2 $3 $4 $5" = "--rm -T --no-deps --entrypoint sh" ] || exit 97
    place=$6; shift 6; set -- sh "$@" ;;
  config | images | version)
    if [ -e "$here/$command-${1-}" ]; then exec cat "$here/$command-${1-}"; fi
    echo "unknown flag" >&2; exit 16 ;;
  *) exit 97 ;;
esac
if [ ! -d "$here/services/$place" ]; then echo "service \"$place\" is not running" >&2; exit 1; fi
cd "$here/services/$place" || exit 97
PROJECT=$project exec "$@"
"""


@dataclass(frozen=True)
class FakeDocker:
    """A folder with a `docker` in it.

    :param path: the folder; ``services/NAME`` in it is where a service's commands run, and tells that it runs.
        ``broken`` holds what every call fails with; see :meth:`prints`
    """

    path: Path

    @classmethod
    def make(cls, path: Path, *services: str) -> FakeDocker:
        """Make the folder and the directories of the services."""
        path.mkdir(parents=True)
        script = path / "docker"
        script.write_text(SCRIPT, "utf-8")
        script.chmod(0o755)
        for service in services:
            (path / "services" / service).mkdir(parents=True)
        return cls(path)

    @property
    def command(self) -> str:
        """The path of the `docker`."""
        return str(self.path / "docker")

    @property
    def environment(self) -> dict[str, str]:
        """A PATH that has it first."""
        return {"PATH": f"{self.path}{os.pathsep}{os.environ['PATH']}"}

    def service(self, name: str) -> Path:
        """Where the commands of a service run."""
        return self.path / "services" / name

    def prints(self, command: str, option: str, text: str) -> None:
        """Let ``config``, ``images`` or ``version`` print `text` when its first argument is `option`, or there is none."""
        (self.path / f"{command}-{option}").write_text(text, "utf-8")

    def has_image(self, name: str) -> None:
        """Let there be an image."""
        place = self.path / "images" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()

    def calls(self) -> list[list[str]]:
        """The arguments of each call so far."""
        lines = (self.path / "calls").read_text("utf-8").splitlines()
        return [line.split("\t")[:-1] for line in lines]
