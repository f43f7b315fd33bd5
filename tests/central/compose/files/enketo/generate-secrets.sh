#!/bin/bash -eu
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes each secret once; no trailing newline. Sizes are checked by start-enketo.sh.
set -o pipefail
make_secret() {
  local file="/etc/secrets/$1" bytes="$2" value
  if [ -f "$file" ]; then return; fi
  # Letters and digits only, so that the values survive templates and HTTP headers.
  value="$(openssl rand -base64 $((bytes * 4)) | LC_ALL=C tr -dc '[:alnum:]')"
  printf '%s' "${value:0:bytes}" > "$file"
}
make_secret enketo-secret 64
make_secret enketo-less-secret 32
make_secret enketo-api-key 128
