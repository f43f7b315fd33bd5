# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""README.txt of an export: how to open each part with openssl, tar and rclone, and nothing of ours.

The commands, which are the indented lines, are for a POSIX shell, in their order, and a test executes them. The
format of the encryption: docs.getodk.org/central-backup; of the pool: rclone.org/crypt.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._set_names import PARTS

NAME = "README.txt"

_WIDTH = 78
_LONGEST = 400

_WHAT = {
    "database": "the database: everything but what the other parts hold",
    "enketo": "Web Forms links and secrets of Enketo, without which links that were given out are dead",
    "config": "configuration: .env, keys, what differs from the checkout",
    "blobs": "list of the attachments that the Central kept in S3, a line of JSON each",
}

_POOL_REMOTE = """\
    export RCLONE_CONFIG_POOL_TYPE=crypt
    export RCLONE_CONFIG_POOL_REMOTE="$PWD/{objects}"
    export RCLONE_CONFIG_POOL_FILENAME_ENCRYPTION=off
    export RCLONE_CONFIG_POOL_DIRECTORY_NAME_ENCRYPTION=false
    export RCLONE_CONFIG_POOL_PASSWORD="$(head -n 1 "$PASSPHRASE_FILE" | tr -d '\\n' | rclone obscure -)"
    rclone copy pool: "$OPENED/objects"
"""

_HASHES = """\
    (cd "$OPENED/objects" && find . -type f -exec sha1sum {} +) \\
      | awk '{ if (substr($2, length($2) - 39) != $1) print }'
"""


@dataclass(frozen=True)
class Exported:
    """What is exported. Paths are relative to the directory of the export.

    :param set_path: of the set
    :param objects_path: of the objects, None where there are none
    :param objects: how many there are
    :param objects_encrypted: whether a passphrase is needed to read them
    :param absent: how many objects the list names as purged or lost
    """

    manifest: dict[str, Any]
    set_path: str
    objects_path: Optional[str]
    objects: int
    objects_encrypted: bool
    absent: int


def render(exported: Exported) -> bytes:
    """Return the text, UTF-8."""
    manifest = exported.manifest
    encrypted = _needs_passphrase(exported)
    pieces = [_head(manifest, encrypted), _contents(exported), _prepare(exported, encrypted)]
    for name, part in _parts(manifest):
        if name == "database":
            pieces.append(_database(part))
        elif name != "blobs":
            pieces.append(_archive(name, part))
    if exported.objects_path is not None:
        pieces.append(_objects(exported, exported.objects_path))
    pieces.append(_collection(manifest))
    return ("\n\n".join(piece.strip("\n") for piece in pieces) + "\n").encode("utf-8")


def _parts(manifest: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, manifest["parts"][name]) for name in PARTS if name in manifest["parts"]]


def _plain(text: object) -> str:
    """Return a text of the manifest as one line without anything that a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "..."


def _wrapped(text: str, first: str = "", others: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _title(text: str) -> str:
    return f"{text}\n{'-' * len(text)}\n\n"


def _needs_passphrase(exported: Exported) -> bool:
    parts = exported.manifest["parts"].values()
    return exported.objects_encrypted or any(_is_encrypted(part) for part in parts if part["format"] != "jsonl")


def _is_encrypted(part: dict[str, Any]) -> bool:
    """Whether a passphrase is needed. What does not say so is not known to be without."""
    return part.get("encrypted") is not False and part["format"] != "pgdump"


def _head(manifest: dict[str, Any], encrypted: bool) -> str:
    title = f"Backup set of the ODK Central {_plain(manifest['central'])}"
    address = manifest["identity"].get("url") or manifest["identity"].get("domain")
    secrecy = (
        "The passphrase is not in here. Whoever has both has all submissions, attachments, keys and password hashes "
        "of the Central, so keep and send them apart."
        if encrypted
        else "It is NOT encrypted: whoever can read it has all submissions, attachments, keys and password hashes of "
        "the Central."
    )
    return "\n".join(
        [
            title,
            "=" * len(title),
            "",
            _wrapped(
                f"This directory holds one backup of one ODK Central, as it was on {manifest['started']} (UTC). "
                + (f"Its address was {_plain(address)}. " if address else "")
                + f"The identifier of the set is {manifest['set_id']}. {secrecy}"
            ),
        ]
    )


def _contents(exported: Exported) -> str:
    manifest = exported.manifest
    lines = [_title("What is in it") + f"Below {exported.set_path}:", ""]
    for name, part in _parts(manifest):
        lines += [f"- {part['file']} ({part['size']} bytes)", _wrapped(_WHAT[name], "  ", "  ")]
    lines += ["- manifest.json", _wrapped("what the parts are, sizes, SHA-256, rows by table, versions", "  ", "  ")]
    if exported.objects_path is not None:
        lines += ["", f"Below {exported.objects_path}:", "", f"- attachments, a file each: {exported.objects}"]
    missing = [f"{name}: {_plain(why)}" for name, why in manifest["absent"].items()]
    if exported.absent:
        missing.append(f"attachments that were purged or lost, as blobs.jsonl says of each: {exported.absent}")
    if missing:
        lines += ["", "Not in it:", "", *(_wrapped(text, "- ", "  ") for text in missing)]
    if manifest["notes"]:
        lines += ["", "Notes of the backup:", "", *(_wrapped(_plain(note), "- ", "  ") for note in manifest["notes"])]
    return "\n".join(lines)


def _prepare(exported: Exported, encrypted: bool) -> str:
    tools = "openssl (1.1.1 or later), tar, sha256sum"
    if exported.objects_path is not None and exported.objects_encrypted:
        tools += ", rclone (1.60 or later, https://rclone.org)"
    where = "Write the passphrase into a file, as its only line and without a Windows line end. " if encrypted else ""
    commands = ["    PASSPHRASE_FILE=/path/to/passphrase"] if encrypted else []
    commands += ["    OPENED=/path/to/an/empty/directory", f"    SET={exported.set_path}", "    umask 077"]
    return (
        _title("Before you open it")
        + _wrapped(
            f"You need {tools}; and for the database pg_restore of PostgreSQL. Be in the directory of this file. {where}"
            "What is opened is not encrypted any more: choose a place for it where it may lie, and remove it when you "
            "are done."
        )
        + "\n\n"
        + "\n".join(commands)
        + "\n\n"
        + _wrapped("See whether everything is there and whole. This prints nothing if all is well:")
        + "\n\n    sha256sum --check --quiet SHA256SUMS\n\n"
        + _wrapped(
            "That finds damage. It does not find what somebody has changed on purpose, together with SHA256SUMS: "
            "against that the manifest has an HMAC, see the end."
            if exported.manifest["authenticated"]
            else "That finds damage. What somebody has changed on purpose cannot be found: the set was made without "
            "a passphrase."
        )
    )


def _openssl(part: dict[str, Any]) -> str:
    source = '"file:$PASSPHRASE_FILE"' if _is_encrypted(part) else "pass:"
    return f"openssl enc -d -chacha20 -pbkdf2 -pass {source}"


def _database(part: dict[str, Any]) -> str:
    text = _title("The database")
    back = (
        "The ODK documentation says how a Central takes it back, with the file as it is: "
        "https://docs.getodk.org/central-backup/. That replaces everything that this Central holds."
    )
    if part["format"] == "zip":
        return text + _wrapped(
            "It is a zip file of a Central before v2026.2, encrypted in a way of its own that no other tool opens. "
            + back
        )
    # Only the number: distributions put the version of their package behind it.
    version = _plain(part.get("dump_version") or "").split()[:1]
    needs = f" of version {version[0]} or later" if version else ""
    if part["format"] == "pgdump":
        text += f'    cp "$SET/{part["file"]}" "$OPENED/database.pgdump"\n'
    else:
        text += f'    {_openssl(part)} \\\n      -in "$SET/{part["file"]}" -out "$OPENED/database.pgdump"\n'
    text += '    pg_restore --list "$OPENED/database.pgdump"\n'
    text += '    pg_restore --file /dev/null "$OPENED/database.pgdump"\n\n'
    text += _wrapped(
        f"The second command lists what is in it, the third one reads all of it; pg_restore has to be{needs or ' recent'}. "
        "'does not appear to be a valid archive' means that the passphrase is another one: openssl itself does not notice."
    )
    return f"{text}\n\n{_wrapped(back)}"


def _archive(name: str, part: dict[str, Any]) -> str:
    title = {"enketo": "Enketo (Web Forms)", "config": "The configuration"}[name]
    after = {
        "enketo": "Its three files in secrets/ belong into the volume of the service 'secrets', byte for byte. "
        "enketo-main.rdb belongs into /data of the service enketo_redis_main, while that is stopped.",
        "config": "What is in checkout/ belongs into the directory of the Central (a checkout of the commit in "
        "git/commit); config.json says what else there is.",
    }[name]
    return (
        _title(title)
        + f'    mkdir -p "$OPENED/{name}"\n'
        + f'    {_openssl(part)} \\\n      -in "$SET/{part["file"]}" | tar -x -C "$OPENED/{name}"\n'
        + f'    (cd "$OPENED/{name}" && sha256sum --check --quiet SHA256SUMS)\n\n'
        + _wrapped(after)
    )


def _objects(exported: Exported, path: str) -> str:
    text = _title("Attachments that were in S3")
    if exported.objects_encrypted:
        text += _POOL_REMOTE.format(objects=path)
    else:
        text += f'    cp -R "{path}" "$OPENED/objects"\n'
    return (
        text
        + "\n"
        + _wrapped("Each name ends with the SHA-1 of the content. This prints those that differ, so nothing:")
        + f"\n\n{_HASHES}\n"
        + _wrapped(
            "To put them back into a bucket, copy the files without the directories that they are in: the Central knows "
            "them by their names, with the prefix that it was configured with before them."
        )
    )


def _collection(manifest: dict[str, Any]) -> str:
    return _title("With Ansible") + _wrapped(
        "This directory is a repository of the collection odkops.central (https://galaxy.ansible.com). All its "
        "modules and playbooks take it so, with the name "
        f"{manifest['central']} of the Central and the set {manifest['set_id']}. They check the HMAC of the manifest, "
        "and with it that nobody without the passphrase has changed anything. docs/backup-sets.md of the collection "
        "says how to check it by hand."
    )
