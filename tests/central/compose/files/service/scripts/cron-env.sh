# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=sh
# Sourced by cron jobs: they start with an empty environment, and need the container's PG* variables.
while IFS= read -r pair; do
  case "$pair" in PG*) export "${pair?}" ;; esac
done <<EOT
$(tr '\0' '\n' < /dev/shm/docker-envblock)
EOT
export NODE_PATH=/usr/share/nodejs PATH=/usr/local/bin:/usr/bin:/bin
cd /usr/odk || exit 1
