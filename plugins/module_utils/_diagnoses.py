# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every diagnosis that a module returns, with its meaning and what to do. docs/diagnoses.md is this table."""

from __future__ import annotations

from typing import NamedTuple


class Diagnosis(NamedTuple):
    """What a code means, and what the administrator does about it."""

    meaning: str
    remedy: str


OK = "ok"

#: what is wrong with a backup
BACKUP: dict[str, Diagnosis] = {
    "ok": Diagnosis("The backup is whole, and the passphrase opens it.", "Nothing."),
    "truncated": Diagnosis(
        "The file ends before the archive does: the download or the dump stopped early.",
        "Make another backup. Behind nginx older than 1.29.7 this happens although HTTP says 200; look at the logs of "
        "`service` and `postgres14` for the cause.",
    ),
    "dump_failed": Diagnosis(
        "The file has 16 bytes: pg_dump failed at once on the server, and nothing but the header of the encryption came.",
        "Look at the log of `service` (`docker compose logs service`): often pg_dump is older than the database server, "
        "or may not read a table.",
    ),
    "wrong_passphrase": Diagnosis(
        "The passphrase does not open the backup. (Damage to the first 16 bytes looks the same.)",
        "Give the passphrase that was used when the backup was made; older ones too, if it was changed.",
    ),
    "empty_passphrase": Diagnosis(
        "The backup is encrypted with the empty passphrase, which is no protection: anybody can open it.",
        "Verify it without a passphrase. When making a backup: something between here and Central drops the passphrase; "
        "`allow_unencrypted` keeps such a file.",
    ),
    "unencrypted": Diagnosis(
        "The file is a pg_dump archive that is not encrypted at all.",
        "It is not what Central sends; `pg_restore` reads it directly. Keep it where nobody else can read it.",
    ),
    "corrupt": Diagnosis(
        "The passphrase is right, or the file begins as a backup does, but its content is damaged.",
        "Use another backup. Check the disk or the transport that damaged this one.",
    ),
    "tampered": Diagnosis(
        "The file, or the manifest of the set, is not what was sealed.",
        "Use another set; find out who or what wrote there.",
    ),
    "blob_mismatch": Diagnosis(
        "The content of an attachment kept in the database is not what its SHA-1 says.",
        "Make another backup. If the same ids are named again, the live database holds them so: replace those "
        "attachments, or name the ids in `known_bad_blobs`.",
    ),
    "error_page": Diagnosis(
        "The file is an error message (HTML or JSON) that was saved as if it were a backup.",
        "Read it, mend what it says, and make another backup.",
    ),
    "not_a_central_backup": Diagnosis(
        "The file is none of the formats that Central makes (openssl says `bad magic number`), or a dump of another database.",
        "Check the path.",
    ),
    "archive_too_new": Diagnosis(
        "The archive was made by a pg_dump newer than this collection knows (pg_restore says `unsupported version`).",
        "Install a newer odkops.central. The backup may be good.",
    ),
    "archive_too_old": Diagnosis(
        "The archive was made by a pg_dump older than any that Central used.", "Check where the file comes from."
    ),
    "unsupported_compression": Diagnosis(
        "The data is compressed by a method that this collection does not read.",
        "Install a newer odkops.central, or the file is damaged.",
    ),
    "missing_required_lib": Diagnosis(
        "A Python library that this backup needs is not installed on the host where the module runs.",
        "Install the package that the message names.",
    ),
    "keys_missing": Diagnosis(
        "A zip file without Central's `keys.json`: a backup that was cut short before its last member, or another zip.",
        "Make another backup, or check the path.",
    ),
    "unsafe_archive": Diagnosis(
        "A zip file that would write outside its directory, or unpack to far more than it may.",
        "Do not open it with other tools. It is not what Central makes.",
    ),
    "unreadable": Diagnosis("The file could not be read.", "Check the path, the permissions, and the disk."),
    "pg_restore_failed": Diagnosis(
        "PostgreSQL's own pg_restore does not accept the archive, although our reader found nothing wrong.",
        "Use another backup, and report it: one of the two readers is mistaken.",
    ),
    "pg_restore_too_old": Diagnosis(
        "The pg_restore that was asked is older than the pg_dump that made the backup (`unsupported version`).",
        "Name a newer one, such as that of the `service` or `postgres14` container, or use `depth: full`.",
    ),
    "missing_pg_restore": Diagnosis(
        "`depth: pg_restore` was asked for, and there is no pg_restore, or it cannot be run.",
        "Install the PostgreSQL client, name a container's in `pg_restore`, or use `depth: full`.",
    ),
    "newer_central": Diagnosis(
        "The backup is of a newer Central than the target.", "Upgrade the target to the version that the message names."
    ),
}

#: what is wrong between here and the server
SERVER: dict[str, Diagnosis] = {
    "authentication_failed": Diagnosis(
        "Central refused the e-mail address and password, or the token (401).",
        "Check them by logging in with a browser. A token ends after 24 hours.",
    ),
    "permission_denied": Diagnosis(
        "The account may not make backups (403): it lacks the right `backup.run`.",
        "Use an account with the site-wide role Administrator.",
    ),
    "oidc_enabled": Diagnosis(
        "The server logs people in through OpenID Connect, so that no password opens its API.",
        "Back the database up by pg_dump on the host itself, or give the token of a session that a browser opened.",
    ),
    "insecure_http": Diagnosis(
        "The address is plain HTTP to another host: password, passphrase and data would cross the network in clear.",
        "Use https. `allow_http` permits it where the network is trusted.",
    ),
    "connection_failed": Diagnosis(
        "The server could not be reached, or the connection broke before an answer.",
        "Check the address, DNS, the firewall, and that `nginx` and `service` run.",
    ),
    "tls_not_trusted": Diagnosis(
        "The server's certificate is not trusted here, has expired, or is for another name.",
        "Give the CA's certificate as `ca_path`, or mend the certificate.",
    ),
    "timeout": Diagnosis(
        "The server did not answer in time, or stopped sending.",
        "Look for locks in the database and for load; raise `read_timeout` where a dump starts slowly.",
    ),
    "server_error": Diagnosis(
        "Central, or the proxy before it, failed (5xx).",
        "Look at the logs of `service` and `nginx`.",
    ),
    "not_a_central": Diagnosis(
        "What answers at the address is no ODK Central.", "Check `url`: the address of the site, without a path."
    ),
}

#: what is wrong here
LOCAL: dict[str, Diagnosis] = {
    "destination_exists": Diagnosis(
        "A file of that name exists already; nothing is ever overwritten.", "Move it away, or choose another `dest`."
    ),
    "destination_not_writable": Diagnosis(
        "The destination cannot be written by this user.", "Check the path, its owner and permissions, and `become`."
    ),
    "disk_full": Diagnosis(
        "There is no room, or not enough for a backup of the last one's size.", "Make room, or choose another `dest`."
    ),
    "weak_passphrase": Diagnosis(
        "The passphrase is short enough to be guessed.",
        "Use what `openssl rand -base64 24` prints; `allow_weak_passphrase` takes it all the same.",
    ),
    "bad_passphrase": Diagnosis(
        "The passphrase, or the file that should hold it, cannot be one: empty, not one line, not UTF-8, too long, "
        "or a number instead of a text.",
        "Use one line of text; in YAML, put it in quotes.",
    ),
    "no_passphrase": Diagnosis(
        "No passphrase was given, so the backup would be readable by anybody who finds it.",
        "Give `passphrase` or `passphrase_file`; `allow_unencrypted` does without.",
    ),
    "bad_option": Diagnosis("An option has a value that cannot be.", "See the message and the module's documentation."),
}

#: what is wrong with a set or a repository
SETS: dict[str, Diagnosis] = {
    "not_a_set": Diagnosis(
        "The directory has no manifest, or one that cannot be read as such: the set was never sealed, or is damaged.",
        "Check the path; use another set.",
    ),
    "set_not_found": Diagnosis("The repository has no such set.", "List its sets with central_set_info."),
    "set_sealed": Diagnosis("A sealed set is never changed nor discarded.", "Open a new one."),
    "manifest_too_new": Diagnosis(
        "The manifest was written by a newer version of this collection.", "Install a newer odkops.central."
    ),
    "bad_manifest": Diagnosis(
        "What was to be sealed cannot go into a manifest.", "The message names the field; correct the call."
    ),
    "unauthenticated": Diagnosis(
        "A passphrase was given, but the manifest carries no HMAC: it was made without a passphrase, or the HMAC was removed.",
        "Do not trust the set; read it without a passphrase only if it was made without one.",
    ),
    "missing_part": Diagnosis("A part that the manifest names is not there.", "Use another set."),
    "unexpected_file": Diagnosis(
        "The directory of a set holds a file that is none of its parts.", "Discard it and back up again."
    ),
    "not_a_repository": Diagnosis(
        "The repository's path is not a directory, or leads through a symbolic link.",
        "Check the path, and that the disk is mounted.",
    ),
    "bad_name": Diagnosis(
        "A name of a Central or a set has characters that are not allowed.",
        "Use letters, digits, dots, hyphens and underscores.",
    ),
}

#: all of them
DIAGNOSES: dict[str, Diagnosis] = {**BACKUP, **SERVER, **LOCAL, **SETS}
