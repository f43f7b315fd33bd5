#!/usr/bin/env bash
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Checks the HMAC of a set's manifest without the collection: openssl (3.0 or later) computes, and Python, with
# nothing but its json module, writes the canonical form. See backup-sets.md.
#
#   bash check-manifest.sh MANIFEST PASSPHRASE_FILE
#
# openssl takes a key on its command line only, where other users of this machine can see it while it runs:
# run this on a machine that is yours alone.
set -euo pipefail

manifest=$1
passphrase=$(head -n 1 "$2" | tr -d '\r\n' | od -An -v -tx1 | tr -d ' \n')

canonical() { # the manifest without authentication.mac: sorted keys, no spaces, UTF-8
  python3 -c '
import json, sys
manifest = json.load(open(sys.argv[1], encoding="utf-8"))
del manifest["authentication"]["mac"]
text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
sys.stdout.buffer.write(text.encode("utf-8"))' "$manifest"
}
field() { # field NAME...: one value of the manifest
  python3 -c '
import json, sys
value = json.load(open(sys.argv[1], encoding="utf-8"))["authentication"]
for name in sys.argv[2:]:
    value = value[name]
print(value)' "$manifest" "$@"
}
scrypt() { # scrypt SALT: the 32-byte key of the passphrase, in hexadecimal digits
  openssl kdf -keylen 32 -kdfopt "hexpass:$passphrase" -kdfopt "hexsalt:$1" \
    -kdfopt n:32768 -kdfopt r:8 -kdfopt p:1 SCRYPT | tr -d ':\n'
}
hmac() { # hmac KEY: the HMAC-SHA256 of standard input
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -r | cut -d ' ' -f 1
}

mac=$(canonical | hmac "$(scrypt "$(field key_derivation salt)")")
id=$(printf '%s' 'odkops.central key id 1' | hmac "$(scrypt "$(field key_id_salt)")")
if [[ $mac == "$(field mac)" ]]; then
  echo "The manifest is as it was sealed, with the passphrase whose key id is $(field key_id)."
elif [[ ${id:0:16} == "$(field key_id)" ]]; then
  echo 'TAMPERED: the passphrase is the right one, and the manifest was changed after it was sealed.'
  exit 1
else
  echo "The set was made with another passphrase: this one has the key id ${id:0:16}, and the manifest $(field key_id)."
  exit 2
fi
