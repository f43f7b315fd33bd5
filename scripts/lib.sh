# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Shared by the scripts in this folder; sourced, never run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export LC_ALL=C.UTF-8
# What a script needs of the environment it sets itself: nothing of the caller's Ansible leaks in.
export ANSIBLE_NOCOWS=1

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# apt_install PACKAGE...: install Debian packages, or say what is missing and stop.
apt_install() {
  if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    die "missing: $*. Install it (Debian, Ubuntu: apt-get install $*) and run this again."
  fi
  say "installing Debian package(s): $*"
  local log install=(apt-get -qq -o=Dpkg::Use-Pty=0 install -y --no-install-recommends "$@")
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! "${install[@]}" >"$log" 2>&1 </dev/null; then
    if ! { apt-get -qq update && "${install[@]}"; } >"$log" 2>&1 </dev/null; then
      cat "$log" >&2
      die "Debian package(s) could not be installed: $*"
    fi
  fi
  rm -f "$log"
}

# need COMMAND [PACKAGE]: make sure that a command exists.
need() {
  command -v "$1" >/dev/null || apt_install "${2:-$1}"
}

# only_one NAME: wait until no other run of this checkout holds the lock NAME, then hold it until this script ends.
only_one() {
  need flock util-linux
  mkdir -p "$root/.cache"
  exec 9>"$root/.cache/$1.lock"
  flock -n 9 || { say "waiting for another run of '$1' in this checkout"; flock 9; }
}
