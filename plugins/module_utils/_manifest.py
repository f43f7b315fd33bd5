# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a backup set: what is in the set, sealed with the passphrase.

The format is our own; docs/backup-sets.md describes each field and how to check one by hand.

Two keys come from the passphrase, each through scrypt with a salt of its own:

- the key of the HMAC over the manifest. Its salt is new for each set;
- the key of the **key id**, which tells with which passphrase a set was made. Its salt is the same for all
  sets of one Central in one repository, so that the same passphrase has the same key id there, and another
  one elsewhere. The key id is eight bytes of an HMAC of a fixed label: whoever sees it can do no more with it
  than with the HMAC itself, that is, guess passphrases at the price of one scrypt each.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._set_names import PART_FILES, PARTS, utc_from_text

COLLECTION_VERSION = "0.1.0"
MANIFEST_FILE = "manifest.json"
MANIFEST_TYPE = "odk-central-backup-set"
SCHEMA = 1

#: A manifest of a Central with a thousand tables has 100 KiB. What is larger is something else.
MAXIMUM_SIZE = 16 * 1024 * 1024
#: Deeper nesting than this is no manifest, and would be a burden on the parser.
MAXIMUM_DEPTH = 32

SALT_BYTES = 16
#: scrypt needs 128 * n * r bytes of memory: 32 MiB.
SCRYPT_N, SCRYPT_R, SCRYPT_P, KEY_BYTES = 2**15, 8, 1, 32
KEY_ID_LABEL = b"odkops.central key id 1"
KEY_ID_BYTES = 8

_KEY_DERIVATION = {"function": "scrypt", "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "length": KEY_BYTES}
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_TIMES = ("started", "finished", "sealed")


# --- canonical JSON ---------------------------------------------------------------------------------------------


def check_plain(value: Any, where: str = "manifest", depth: int = 0) -> None:
    """See to it that `value` has one canonical JSON form in any language.

    Allowed are dictionaries with text keys, lists, text that can be written as UTF-8, whole numbers, booleans and
    None. Decimal numbers are not: no two languages write them alike.

    :raises CentralError: ``bad_manifest``
    """
    if depth > MAXIMUM_DEPTH:
        raise CentralError("bad_manifest", f"{where} is nested too deeply for a manifest.")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CentralError("bad_manifest", f"{where} has the key {key!r}, which is not text.")
            check_plain(key, f"a key of {where}", depth + 1)
            check_plain(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_plain(item, where, depth + 1)
    elif isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise CentralError("bad_manifest", f"{where} has text that cannot be written as UTF-8.") from None
    elif not (value is None or isinstance(value, (bool, int))):
        raise CentralError(
            "bad_manifest",
            f"{where} is {type(value).__name__}; a manifest has text, whole numbers, booleans, lists and dictionaries.",
        )


def canonical(value: Any) -> bytes:
    """Return the one JSON form of `value`: keys sorted by code point, no spaces, UTF-8.

    Text is escaped as JSON asks for (quotes, backslashes, control characters below U+0020), and no further.

    :raises CentralError: ``bad_manifest``, see :func:`check_plain`
    """
    check_plain(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def render(manifest: dict[str, Any]) -> bytes:
    """Return `manifest` as it is written to its file: indented, for people. Reading it back gives the same values."""
    check_plain(manifest)
    text = json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number is too large")
    return int(text)


def _no_decimal(text: str) -> Any:
    raise ValueError(f"{text[:20]} is not a whole number")


def parse(data: bytes, where: str = MANIFEST_FILE) -> dict[str, Any]:
    """Read a manifest from the bytes of its file. It is not checked against its HMAC; see :func:`check`.

    :raises CentralError: ``not_a_set``, ``manifest_too_new``
    """
    if len(data) > MAXIMUM_SIZE:
        raise CentralError("not_a_set", f"{where} is no manifest: it is larger than {MAXIMUM_SIZE} bytes.")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_no_decimal,
            parse_constant=_no_decimal,
        )
        check_plain(value)
    except (ValueError, RecursionError, CentralError) as error:
        raise CentralError("not_a_set", f"{where} is no manifest, or it is damaged: {error}.") from error
    if not isinstance(value, dict) or value.get("type") != MANIFEST_TYPE:
        raise CentralError("not_a_set", f"{where} is not the manifest of a backup set of a Central.")
    schema = value.get("schema")
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
        raise CentralError(
            "manifest_too_new",
            f"{where} has version {schema} of the manifest, and this collection reads up to {SCHEMA}. "
            "Update the collection odkops.central.",
            schema=schema,
        )
    problem = _problem(value)
    if problem is not None:
        raise CentralError("not_a_set", f"{where} is no manifest, or it is damaged: {problem}.")
    return value


def read(path: str) -> dict[str, Any]:
    """Read the manifest file `path`, which must be a plain file. See :func:`parse`.

    :raises CentralError: ``not_a_set``, ``manifest_too_new``, ``unreadable``
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CentralError("not_a_set", f"{path} is not a plain file, so this is not a set.")
            data = file.read(MAXIMUM_SIZE + 1)
    except FileNotFoundError:
        raise CentralError("not_a_set", f"{path} does not exist, so this is not a set: it was never sealed.") from None
    except OSError as error:
        if os.path.islink(path):
            raise CentralError("not_a_set", f"{path} is a symbolic link, so this is not a set.") from error
        raise reading_error(error, path) from error
    return parse(data, path)


# --- form -------------------------------------------------------------------------------------------------------


def _is_hex(value: Any, length: int) -> bool:
    return isinstance(value, str) and len(value) == 2 * length and _HEX.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _part_problem(name: str, part: Any) -> str | None:
    if name not in PARTS:
        return f"it has the unknown part {name!r}"
    if not isinstance(part, dict):
        return f"its part {name} is not a dictionary"
    if PART_FILES.get((name, str(part.get("format")))) != part.get("file"):
        return f"the format and the file name of its part {name} do not belong together"
    if not _is_count(part.get("size")) or not _is_hex(part.get("sha256"), 32):
        return f"its part {name} lacks a size or a SHA-256"
    return None


def _authentication_problem(manifest: dict[str, Any]) -> str | None:
    seal_of = manifest.get("authentication")
    if manifest.get("authenticated") is False:
        return None if seal_of is None else "it is not authenticated and has an HMAC all the same"
    if manifest.get("authenticated") is not True or not isinstance(seal_of, dict):
        return "it does not say whether it is authenticated"
    derivation = seal_of.get("key_derivation")
    if not isinstance(derivation, dict) or not _is_hex(derivation.get("salt"), SALT_BYTES):
        return "its key derivation is incomplete"
    if {**derivation, "salt": ""} != {**_KEY_DERIVATION, "salt": ""} or seal_of.get("algorithm") != "hmac-sha256":
        return "its HMAC is not of the kind that version 1 has"
    sizes = {"mac": 32, "key_id": KEY_ID_BYTES, "key_id_salt": SALT_BYTES}
    if not all(_is_hex(seal_of.get(name), size) for name, size in sizes.items()):
        return "its HMAC is incomplete"
    return None


def _problem(manifest: dict[str, Any]) -> str | None:
    """Say what keeps `manifest` from having the form of version 1, or None."""
    if manifest.get("schema") != SCHEMA or isinstance(manifest["schema"], bool):
        return "its version is not a known one"
    for name in ("set_id", "central", *_TIMES):
        if not isinstance(manifest.get(name), str):
            return f"it lacks {name}"
    for name in _TIMES:
        if utc_from_text(manifest[name]) is None:
            return f"{name} is not a time"
    for name in ("parts", "absent", "identity", "database", "tools"):
        if not isinstance(manifest.get(name), dict):
            return f"it lacks {name}"
    notes = manifest.get("notes")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        return "it lacks notes"
    for name, part in manifest["parts"].items():
        problem = _part_problem(name, part)
        if problem is not None:
            return problem
    for name, reason in manifest["absent"].items():
        if name not in PARTS or name in manifest["parts"] or not isinstance(reason, str) or not reason:
            return f"what it says of the absent part {name!r} makes no sense"
    for name in PARTS:
        if name not in manifest["parts"] and name not in manifest["absent"]:
            return f"it does not say where its part {name} is"
    return _authentication_problem(manifest)


def build(
    *,
    set_id: str,
    central: str,
    started: str,
    finished: str,
    sealed: str,
    parts: dict[str, dict[str, Any]],
    absent: dict[str, str],
    identity: dict[str, Any],
    database: dict[str, Any],
    tools: dict[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """Return a manifest that is not sealed yet; docs/backup-sets.md says what each field holds.

    :raises CentralError: ``bad_manifest`` where something is missing or has the wrong form
    """
    manifest: dict[str, Any] = {
        "type": MANIFEST_TYPE,
        "schema": SCHEMA,
        "set_id": set_id,
        "central": central,
        "started": started,
        "finished": finished,
        "sealed": sealed,
        "parts": parts,
        "absent": absent,
        "identity": identity,
        "database": database,
        "tools": tools,
        "notes": notes,
        "authenticated": False,
        "authentication": None,
    }
    check_plain(manifest)
    problem = _problem(manifest)
    if problem is not None:
        raise CentralError("bad_manifest", f"The manifest of {set_id} cannot be made: {problem}.")
    return manifest


# --- authentication ---------------------------------------------------------------------------------------------


def derive_key(passphrase: str, salt: bytes) -> bytes:
    """Return the 32-byte key that scrypt (RFC 7914; n=2**15, r=8, p=1: 32 MiB) makes of `passphrase` and `salt`."""
    return hashlib.scrypt(
        passphrase.encode("utf-8"),
        salt=salt,
        n=SCRYPT_N,
        r=SCRYPT_R,
        p=SCRYPT_P,
        maxmem=64 * 1024 * 1024,
        dklen=KEY_BYTES,
    )


def key_id(passphrase: str, salt: bytes) -> str:
    """Return the key id of `passphrase` in a repository whose key id salt is `salt`: 16 hexadecimal digits."""
    return hmac.new(derive_key(passphrase, salt), KEY_ID_LABEL, hashlib.sha256).digest()[:KEY_ID_BYTES].hex()


def _mac(manifest: dict[str, Any], key: bytes) -> str:
    """Return the HMAC-SHA256 over the canonical form of `manifest` without ``authentication.mac``, in hexadecimal."""
    covered = dict(manifest)
    covered["authentication"] = {name: value for name, value in manifest["authentication"].items() if name != "mac"}
    return hmac.new(key, canonical(covered), hashlib.sha256).hexdigest()


def seal(manifest: dict[str, Any], passphrase: str | None, key_id_salt: bytes | None = None) -> dict[str, Any]:
    """Return `manifest` with its HMAC, or as it is where there is no passphrase.

    :param key_id_salt: the key id salt of this Central in this repository; needed with a passphrase
    :raises CentralError: ``bad_manifest``
    """
    if passphrase is None:
        return {**manifest, "authenticated": False, "authentication": None}
    if key_id_salt is None or len(key_id_salt) != SALT_BYTES:
        raise ValueError("sealing with a passphrase needs the key id salt")
    salt = secrets.token_bytes(SALT_BYTES)
    sealed = dict(manifest)
    sealed["authenticated"] = True
    sealed["authentication"] = {
        "algorithm": "hmac-sha256",
        "key_derivation": {**_KEY_DERIVATION, "salt": salt.hex()},
        "key_id": key_id(passphrase, key_id_salt),
        "key_id_salt": key_id_salt.hex(),
    }
    sealed["authentication"]["mac"] = _mac(sealed, derive_key(passphrase, salt))
    return sealed


def check(
    manifest: dict[str, Any],
    set_id: str,
    central: str,
    passphrase: str | None,
    allow_unauthenticated: bool = False,
) -> bool | None:
    """Check a manifest that :func:`parse` has read against its path and its HMAC.

    :param set_id: the name of the directory that holds it, and
    :param central: the name of the Central's directory: an old set under a new name is found out
    :returns: True where the HMAC is right, False where the manifest has none, and None where it has one that
        could not be checked without a passphrase
    :raises CentralError: ``tampered``, ``wrong_passphrase``, ``unauthenticated``
    """
    for name, expected in (("set_id", set_id), ("central", central)):
        if manifest[name] != expected:
            raise CentralError(
                "tampered",
                f"The manifest of {central}/{set_id} belongs to another set: its {name} is {manifest[name]!r}. "
                "The directory was renamed or the manifest replaced. Do not restore from it; use another set.",
            )
    if not manifest["authenticated"]:
        if passphrase is not None and not allow_unauthenticated:
            raise CentralError(
                "unauthenticated",
                f"The manifest of {central}/{set_id} has no HMAC, though a passphrase was given: the set was made "
                "without one, or somebody has taken the HMAC away. Check it without a passphrase only if you know "
                "that it was made so.",
            )
        return False
    if passphrase is None:
        return None
    seal_of = manifest["authentication"]
    key = derive_key(passphrase, bytes.fromhex(seal_of["key_derivation"]["salt"]))
    if hmac.compare_digest(_mac(manifest, key), seal_of["mac"]):
        return True
    if hmac.compare_digest(key_id(passphrase, bytes.fromhex(seal_of["key_id_salt"])), seal_of["key_id"]):
        raise CentralError(
            "tampered",
            f"The manifest of {central}/{set_id} was changed after it was sealed: the passphrase is the right one, "
            "and the HMAC does not fit. Do not restore from it; use another set, and find out who can write there.",
        )
    raise CentralError(
        "wrong_passphrase",
        f"{central}/{set_id} was made with another passphrase: the key id in its manifest, {seal_of['key_id']}, "
        "is not that of the one given. Give the passphrase that the set was made with.",
        key_id=seal_of["key_id"],
    )
