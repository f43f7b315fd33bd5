#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_backup: downloads a Direct Backup and keeps it if it is whole."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_backup
short_description: Make a Direct Backup of an ODK Central, verified
version_added: 0.1.0
description:
  - Makes a Direct Backup of an ODK Central, which is its database, and saves it. Central is asked for it
    (C(POST /v1/backup)), or C(pg_dump) is run at the Central, which needs no account.
  - The backup is verified while it streams in. It is decrypted, every table is decompressed and its rows are counted.
    A dump that was cut short on the server is found even where HTTP said that all went well.
  - The file gets its name only when it is whole, verified, and safe on the disk. On any failure nothing is left.
  - The database is not the whole of a Central. Enketo's data and keys, the configuration, and attachments in
    S3-compatible storage are not in a Direct Backup.
requirements:
  - "requests (for O(method=api))"
  - cryptography
  - "zstandard, where PostgreSQL 16 or newer makes the dump for O(method=api) (Debian and Ubuntu: python3-zstandard)"
  - "isal (optional: O(method=pg_dump) and verification are faster)"
  - "Docker Compose 2 on the host where the Central runs (for O(method=pg_dump))"
extends_documentation_fragment:
  - odkops.central._api
  - odkops.central._channel
  - odkops.central._channel.ssh
  - odkops.central._channel.lease
  - odkops.central._passphrase
  - odkops.central._passphrase.maker
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the module logs in, looks whether the account may make backups, checks that the destination can be
        written and has room, and logs out. No dump is made.
      - The log-in is an entry in Central's server audit log, in check mode also.
      - With O(method=pg_dump) it looks whether the database answers, whether there is a C(pg_dump) for it, and whether the
        database's user may read all tables.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each run makes another backup. With the path of a file as O(dest), the second run fails, since that file exists.
options:
  method:
    description:
      - V(api) asks Central for the backup. O(url) and credentials are needed.
      - V(pg_dump) runs C(pg_dump) in the container of C(service), with the database settings that Central itself has, so that
        a database server of one's own is dumped as well. O(project_directory) is needed, or O(ssh_host).
        The file is the same as with V(api). No account is needed, so it also works where people log in through
        OpenID Connect, and for dumps that take longer than a proxy waits.
      - V(auto) takes V(api) where O(url) and credentials are given, and V(pg_dump) where they are not,
        where people log in through OpenID Connect, or where the API cannot be reached.
        RV(method) says which one it was, and RV(method_reason) why.
      - Where the container of C(service) does not run, V(pg_dump) makes a container of its own like it, with the same settings.
        Where its C(pg_dump) is older than the server, it makes one like that of C(postgres14), but only if C(service) has
        its database there. RV(dumped_in) says so.
    type: str
    choices: [api, pg_dump, auto]
    default: api
  url:
    description:
      - The address of the site, such as V(https://central.example.org), without a path.
      - Plain HTTP is taken for the host itself (V(http://127.0.0.1:8383), V(http://localhost)) only,
        unless O(allow_http=true).
      - Needed with O(method=api).
    type: str
    required: false
  lock_wait_timeout:
    description:
      - Seconds that C(pg_dump) waits for a table that somebody else has locked, with O(method=pg_dump).
        V(0) waits as long as it takes.
    type: float
    default: 300
  nice:
    description:
      - How far C(pg_dump) gives way to other processes, from V(0) to V(19), with O(method=pg_dump).
      - The database server's own part of the work is done elsewhere and is not affected. O(rate_limit) slows both down.
    type: int
    default: 0
  rate_limit:
    description:
      - How many bytes a second are read from the Central at most, so that it has less to do at a time.
      - With O(method=pg_dump) the data is not compressed yet. An attachment has twice its size in it, and the rest is
        several times as large as in the backup.
    type: int
  dest:
    description:
      - Where the backup is saved, on the host where the module runs.
      - A path that ends in V(.pgdump.enc.bin), V(.bin), V(.zip), V(.enc), V(.pgdump), V(.dump) or V(.bak) and is
        no directory is the file itself.
        Anything else is a directory, in which the file gets the name that the server gives it,
        with hyphens for the characters that some file systems refuse. With C(pg_dump) it gets a name of the same form.
      - Missing directories are made, for their owner only.
      - A file that exists is never overwritten.
      - A Central older than v2026.2 sends a zip file. Where O(dest) is a file that ends in V(.pgdump.enc.bin),
        the end of its name becomes V(.zip) then, and the other way round. RV(path) says what it is.
        Neither of the two may exist.
    type: path
    required: true
  expected_size:
    description:
      - How many bytes the backup will probably have. The module fails before it starts where not so much
        and a tenth more is free.
      - By default the size of the newest backup in the same directory.
    type: int
  known_bad_blobs:
    description:
      - Ids of attachments whose content does not match their SHA-1 in the live database itself.
        Without this, a backup with such an attachment counts as damaged (RV(diagnosis=blob_mismatch)).
    type: list
    elements: int
    default: []
notes:
  - With O(auth_method=session) the session is open while the database is dumped, so its row is in the backup.
    In a Central that is restored from it within 24 hours, the token of that session would be good again.
  - A Central older than v2026.2 writes its dump, unencrypted, into C(/tmp) of the container C(service) before it sends it.
    If the download is broken off it leaves the dump there. Look for C(/tmp/tmp-*) in that container then.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_backup_verify
  - name: ODK documentation, Backing up Central
    description: What a Direct Backup holds, and what it does not.
    link: https://docs.getodk.org/central-backup/
"""

EXAMPLES = r"""
- name: Save a backup under the name that the server gives it
  odkops.central.central_backup:
    url: https://central.example.org
    email: backup@example.org
    password_file: /etc/odk-central-backup/password
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central
  register: backup

- name: Say where it is
  ansible.builtin.debug:
    msg: "{{ backup.path }}: {{ backup.size }} bytes, {{ backup.tables['public.submissions'] }} submissions"

- name: Check the log-in, the rights, the destination and the space, and make no backup
  odkops.central.central_backup:
    url: https://central.example.org
    email: backup@example.org
    password_file: /etc/odk-central-backup/password
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central
  check_mode: true

- name: A server with a certificate of one's own, and a name for the file
  odkops.central.central_backup:
    url: https://central.internal:8443
    ca_path: /etc/ssl/certs/internal-ca.pem
    auth_method: basic
    email: backup@example.org
    password: "{{ central_password }}"
    passphrase: "{{ central_passphrase }}"
    dest: /var/backups/odk-central/before-upgrade.pgdump.enc.bin

- name: Without an account, on the host where the Central runs, and gently
  odkops.central.central_backup:
    method: pg_dump
    project_directory: /root/central
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central
    nice: 10
    rate_limit: 20000000
"""

RETURN = r"""
path:
  description: Path of the backup. In check mode, nothing is saved and there is no path.
  returned: success, not in check mode
  type: str
  sample: /var/backups/odk-central/central-backup-2026-11-22T23-11-18.733Z.pgdump.enc.bin
started_at:
  description: When the backup was asked for, in UTC. What was saved in Central after that is not in it.
  returned: success, not in check mode
  type: str
  sample: "2026-11-22T23:11:18.512Z"
finished_at:
  description: When the backup was whole and safe on the disk, in UTC.
  returned: success, not in check mode
  type: str
  sample: "2026-11-22T23:11:41.020Z"
elapsed:
  description: Seconds from asking to having it.
  returned: success, not in check mode
  type: float
  sample: 22.508
method:
  description: How the backup was made, V(api) or V(pg_dump). In check mode, how it would be made.
  returned: success
  type: str
  sample: pg_dump
method_reason:
  description: Why this method was taken.
  returned: success
  type: str
  sample: this Central logs people in through OpenID Connect
dumped_in:
  description:
    - Where C(pg_dump) ran. V(service) is the container of that name.
    - V(service-once) and V(postgres14) are containers of their own, with the programs of C(service) or of C(postgres14).
  returned: success, with pg_dump
  type: str
  sample: service
identity:
  description: Which Central it was, by what it runs with.
  returned: success, with pg_dump
  type: dict
  sample: {"domain": "central.example.org", "project": "central", "database_host": "postgres14", "database": "odk"}
  contains:
    domain:
      description: Its C(DOMAIN).
      type: str
      returned: always
    project:
      description: Its Compose project.
      type: str
      returned: always
    database_host:
      description: The host of its database, as C(service) knows it.
      type: str
      returned: always
    database_port:
      description: The port there.
      type: str
      returned: always
    database:
      description: The database's name.
      type: str
      returned: always
    database_system:
      description: PostgreSQL's own number of that server, or null where it could not be asked as C(service) does.
      type: str
      returned: always
free:
  description: Bytes that are free at the destination.
  returned: success, in check mode
  type: int
  sample: 84825604096

diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
format:
  description: V(pgdump.enc), or V(zip) from a Central older than v2026.2.
  returned: success, not in check mode
  type: str
  sample: pgdump.enc
encrypted:
  description: Whether a passphrase is needed to read the backup.
  returned: success, not in check mode
  type: bool
  sample: true
depth:
  description: How thoroughly the backup was verified. Always V(full).
  returned: success, not in check mode
  type: str
  sample: full
archive_version:
  description: Version of the archive's format. An older pg_restore than it needs does not read it.
  returned: success, not in check mode
  type: str
  sample: "1.14"
server_version:
  description: Version of the PostgreSQL server that was dumped.
  returned: success, not in check mode
  type: str
  sample: "14.22"
dump_version:
  description: Version of the pg_dump that made the dump.
  returned: success, not in check mode
  type: str
  sample: "14.22"
compression:
  description: V(gzip), V(zstd), V(lz4) or V(none).
  returned: success, not in check mode
  type: str
  sample: gzip
created:
  description: When the dump began, by the clock and in the time zone of the server.
  returned: success, not in check mode
  type: str
  sample: "2026-11-22T23:11:18"
database:
  description: Name of the database that was dumped.
  returned: success, not in check mode
  type: str
  sample: odk
size:
  description: Size of the file in bytes.
  returned: success, not in check mode
  type: int
  sample: 222177
sha256:
  description: SHA-256 of the file, in hexadecimal digits. The format has no checksum of its own, so keep this one elsewhere.
  returned: success, not in check mode
  type: str
  sample: c2b2e566a27af4a0debcddb43b6d0b54ddb2697551f3e0e18fd17d0fa23000af
tables:
  description: Number of rows by table.
  returned: success, not in check mode
  type: dict
  sample: {"public.forms": 4, "public.submissions": 200}
central:
  description: What the dump says of the Central.
  returned: success, not in check mode
  type: dict
  sample:
    version: v2026.1.0
    migrations: 214
  contains:
    version:
      description: Version of Central when it last started after an upgrade. Null where the Central is too old to note it.
      type: str
      returned: always
    backend_version:
      description: Version of its back end at that time.
      type: str
      returned: always
    frontend_version:
      description: Version of its front end at that time.
      type: str
      returned: always
    migration:
      description: The latest migration of its database. A Central without this migration cannot take the backup.
      type: str
      returned: always
    migrations:
      description: Number of its migrations.
      type: int
      returned: always
    blobs:
      description: Number of attachments by status. Those V(uploaded) are in S3-compatible storage and not in the backup.
      type: dict
      returned: always
    blobs_in_database:
      description: Number of attachments whose content is in the backup. Each was checked by its SHA-1.
      type: int
      returned: always
    bad_blobs:
      description: Ids of those whose content is not what its SHA-1 says, which O(known_bad_blobs) named.
      type: list
      elements: int
      returned: always
    data_size:
      description: Bytes of all rows as text, uncompressed. The database that they are restored into takes up to twice as much.
      type: int
      returned: always
    enketo_ids:
      description: Number of forms with a Web Forms link.
      type: int
      returned: always
    enketo_once_ids:
      description: Number of forms with a link for single submissions.
      type: int
      returned: always
    enketo_draft_ids:
      description: Number of drafts with a Web Forms link.
      type: int
      returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.validation import check_required_if
from ansible_collections.odkops.central.plugins.module_utils._api_args import (
    API_MUTUALLY_EXCLUSIVE,
    API_REQUIRED_IF,
    api_argument_spec,
    credentials_of,
    transport_of,
)
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    maker_argument_spec,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._backup_method import (
    API,
    METHODS,
    PG_DUMP,
    Ways,
    make_backup,
)
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._channel_args import (
    channel_of,
    has_channel,
    leased,
    leased_channel_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._download import Request
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
from ansible_collections.odkops.central.plugins.module_utils._pg_dump import DumpOptions


def _missing(params: dict[str, Any]) -> str:
    """What the API would need and was not given, in a few words, or empty."""
    if params["url"] is None:
        return "url was not given"
    try:
        check_required_if(API_REQUIRED_IF, {name: value for name, value in params.items() if value is not None})
    except TypeError as error:
        return str(error)
    return ""


def _ways(params: dict[str, Any]) -> Ways:
    terms = Terms(
        dest=params["dest"],
        passphrase=read_passphrase(params["passphrase"], params["passphrase_file"]),
        allow_unencrypted=params["allow_unencrypted"],
        allow_weak_passphrase=params["allow_weak_passphrase"],
        expected_size=params["expected_size"],
        known_bad_blobs=frozenset(params["known_bad_blobs"]),
        rate_limit=params["rate_limit"],
    )
    method = params["method"]
    request = channel = None
    missing = "" if method == PG_DUMP else _missing(params)
    if method != PG_DUMP and not missing:
        request = Request(transport=transport_of(params), credentials=credentials_of(params), terms=terms)
    if method != API and has_channel(params):
        channel = channel_of(params)
    return Ways(
        terms=terms,
        request=request,
        no_request=missing,
        channel=channel,
        options=DumpOptions(
            lock_wait_timeout=params["lock_wait_timeout"],
            read_timeout=params["read_timeout"],
            nice=params["nice"],
        ),
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **api_argument_spec(),
            **leased_channel_argument_spec(),
            **passphrase_argument_spec(),
            **maker_argument_spec(),
            "method": {"type": "str", "choices": list(METHODS), "default": API},
            "url": {"type": "str"},
            "lock_wait_timeout": {"type": "float", "default": 300},
            "nice": {"type": "int", "default": 0},
            "rate_limit": {"type": "int"},
            "dest": {"type": "path", "required": True},
            "expected_size": {"type": "int"},
            "known_bad_blobs": {"type": "list", "elements": "int", "default": []},
        },
        mutually_exclusive=[*API_MUTUALLY_EXCLUSIVE, *PASSPHRASE_MUTUALLY_EXCLUSIVE],
        required_if=[("method", API, ("url",)), ("method", PG_DUMP, ("project_directory", "ssh_host"), True)],
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        with leased(module.params, module.check_mode):
            found = make_backup(module.params["method"], _ways(module.params), check=module.check_mode)
        return {"diagnosis": OK, **found, "changed": True}

    run(module, action)


if __name__ == "__main__":
    main()
