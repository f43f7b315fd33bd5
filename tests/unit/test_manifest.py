# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest: its canonical form, its HMAC checked by other means, and every way to tamper with it."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.odkops.central.plugins.module_utils import _manifest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from hypothesis import given, settings
from hypothesis import strategies as st

from support.paths import ROOT
from support.sets import ABSENT, HELD, PASSPHRASE, database_part

SET_ID = "20261122T020000.123Z-0a1b2c3d"
CENTRAL = "central.example.org"
SALT = bytes(range(16))


def unsealed(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "set_id": SET_ID,
        "central": CENTRAL,
        "started": "2026-11-22T02:00:00.123Z",
        "finished": "2026-11-22T02:00:50.000Z",
        "sealed": "2026-11-22T02:00:51.000Z",
        "parts": {"database": {**database_part(), "file": "database.pgdump.enc.bin"}},
        "absent": ABSENT,
        "identity": {"url": "https://central.example.org", "domain": "central.example.org"},
        "database": HELD,
        "tools": {"collection": "0.1.0", "isal": None},
        "notes": ['A note with "quotes", a tab\t, \u00e9, \u4e16\u754c, \U0001f511 and \u007f.'],
    }
    return _manifest.build(**{**fields, **changes})


@pytest.fixture(scope="module")
def sealed() -> dict[str, Any]:
    return _manifest.seal(unsealed(), PASSPHRASE, SALT)


def check(manifest: dict[str, Any], passphrase: str | None = PASSPHRASE, **more: Any) -> bool | None:
    return _manifest.check(_manifest.parse(_manifest.render(manifest)), SET_ID, CENTRAL, passphrase, **more)


def diagnosis_of(manifest: dict[str, Any], passphrase: str | None = PASSPHRASE) -> str:
    with pytest.raises(CentralError) as caught:
        check(manifest, passphrase)
    return caught.value.diagnosis


# --- canonical form ---------------------------------------------------------------------------------------------


def test_canonical_form_is_as_documented() -> None:
    value = {"b": [1, -2, True, None], "a": {"\u00e9": '"\\/\n\u0001', "Z": ""}, "\U0001f511": 2**60}
    expected = (
        '{"a":{"Z":"","\u00e9":"\\"\\\\/\\n\\u0001"},"b":[1,-2,true,null],"\U0001f511":1152921504606846976}'
    ).encode()
    assert _manifest.canonical(value) == expected


@pytest.mark.parametrize(
    "value", [1.0, float("nan"), float("inf"), {"a": [1.5]}, {1: 2}, {"a": b"x"}, "\ud800", {"\udfff": 1}]
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    for function in (_manifest.canonical, _manifest.render):
        with pytest.raises(CentralError) as caught:
            function(value)
        assert caught.value.diagnosis == "bad_manifest"


def test_deep_nesting_is_refused() -> None:
    value: Any = 1
    for _level in range(100):
        value = [value]
    with pytest.raises(CentralError):
        _manifest.canonical(value)


plain_text = st.text(st.characters(exclude_categories=["Cs"]))
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | plain_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4),
    max_leaves=12,
)


@given(plain_values)
def test_canonical_form_reads_back_and_does_not_depend_on_order(value: Any) -> None:
    def reversed_order(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: reversed_order(item[key]) for key in reversed(item)}
        return [reversed_order(one) for one in item] if isinstance(item, list) else item

    form = _manifest.canonical(value)
    assert json.loads(form) == value
    assert _manifest.canonical(reversed_order(value)) == form
    assert _manifest.canonical(json.loads(_manifest.render(value))) == form


# --- the HMAC, by other means -----------------------------------------------------------------------------------


def test_mac_recomputed_with_hashlib(sealed: dict[str, Any]) -> None:
    claimed = copy.deepcopy(sealed)
    mac = claimed["authentication"].pop("mac")
    derivation = claimed["authentication"]["key_derivation"]
    assert (derivation["n"], derivation["r"], derivation["p"], derivation["length"]) == (32768, 8, 1, 32)
    key = hashlib.scrypt(
        PASSPHRASE.encode(), salt=bytes.fromhex(derivation["salt"]), n=32768, r=8, p=1, maxmem=2**26, dklen=32
    )
    text = json.dumps(claimed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert hmac.new(key, text, "sha256").hexdigest() == mac


def test_mac_and_key_id_recomputed_with_openssl(sealed: dict[str, Any], tmp_path: Path) -> None:
    """The script that docs/backup-sets.md gives to whoever does not trust this collection."""
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(_manifest.render(sealed))
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("not it\n")

    def run(secret: Path) -> tuple[int, str]:
        command = ["bash", str(ROOT / "docs" / "check-manifest.sh"), str(manifest), str(secret)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    key_id = sealed["authentication"]["key_id"]
    assert run(passphrase) == (0, f"The manifest is as it was sealed, with the passphrase whose key id is {key_id}.\n")
    code, output = run(wrong)
    assert code == 2
    assert f"this one has the key id {_manifest.key_id('not it', SALT)}, and the manifest {key_id}." in output
    manifest.write_bytes(_manifest.render({**sealed, "notes": []}))
    code, output = run(passphrase)
    assert code == 1
    assert output.startswith("TAMPERED")


def test_key_id_is_the_same_for_the_same_passphrase_and_salt_only(sealed: dict[str, Any]) -> None:
    again = _manifest.seal(unsealed(), PASSPHRASE, SALT)
    assert again["authentication"]["key_id"] == sealed["authentication"]["key_id"]
    assert again["authentication"]["key_derivation"]["salt"] != sealed["authentication"]["key_derivation"]["salt"]
    assert again["authentication"]["mac"] != sealed["authentication"]["mac"]
    assert _manifest.key_id(PASSPHRASE, bytes(16)) != sealed["authentication"]["key_id"]
    assert _manifest.key_id(PASSPHRASE + "x", SALT) != sealed["authentication"]["key_id"]


# --- checking ---------------------------------------------------------------------------------------------------


def test_right_passphrase(sealed: dict[str, Any]) -> None:
    assert check(sealed) is True


def test_without_a_passphrase_it_is_not_checked(sealed: dict[str, Any]) -> None:
    assert check(sealed, None) is None


def test_wrong_passphrase(sealed: dict[str, Any]) -> None:
    with pytest.raises(CentralError) as caught:
        check(sealed, "not it")
    assert caught.value.diagnosis == "wrong_passphrase"
    assert caught.value.details == {"key_id": sealed["authentication"]["key_id"]}


def test_made_without_a_passphrase() -> None:
    manifest = _manifest.seal(unsealed(), None)
    assert manifest["authenticated"] is False
    assert check(manifest, None) is False
    assert diagnosis_of(manifest) == "unauthenticated"
    assert check(manifest, allow_unauthenticated=True) is False


def test_hmac_taken_away(sealed: dict[str, Any]) -> None:
    assert diagnosis_of({**sealed, "authenticated": False, "authentication": None}) == "unauthenticated"


@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_under_another_name_or_central(sealed: dict[str, Any], passphrase: str | None) -> None:
    for set_id, central in (("20261123T020000.123Z-0a1b2c3d", CENTRAL), (SET_ID, "other")):
        with pytest.raises(CentralError) as caught:
            _manifest.check(sealed, set_id, central, passphrase)
        assert caught.value.diagnosis == "tampered"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from leaves(value[index], (*path, index))
    yield path


def altered(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("1" if value[-1:] != "1" else "2")
    return [*value, "more"] if isinstance(value, list) else {**value, "more": 1}


def test_every_field_tampered_with(sealed: dict[str, Any]) -> None:
    """Each value is changed in turn, and each key removed; nothing passes, whatever it is called."""
    found: dict[tuple[Any, ...], str] = {}
    for path in [path for path in leaves(sealed) if path]:
        for removed in (False, True):
            manifest = copy.deepcopy(sealed)
            holder: Any = manifest
            for key in path[:-1]:
                holder = holder[key]
            if removed:
                del holder[path[-1]]
            else:
                holder[path[-1]] = altered(holder[path[-1]])
            found[(*path, removed)] = diagnosis_of(manifest)
    assert len(found) > 60
    assert set(found.values()) <= {"tampered", "not_a_set", "manifest_too_new", "wrong_passphrase"}
    assert found["schema", False] == "manifest_too_new"
    assert found["set_id", False] == found["central", False] == "tampered"
    for path in (("database", "tables", "public.forms"), ("parts", "database", "sha256"), ("notes", 0), ("sealed",)):
        assert found[(*path, False)] == ("not_a_set" if path == ("sealed",) else "tampered"), path
    assert found["authentication", "mac", False] == "tampered"
    # With another key id the passphrase seems to be another one: the next test.
    assert (
        found["authentication", "key_id", False] == found["authentication", "key_id_salt", False] == "wrong_passphrase"
    )
    assert found["authentication", "key_derivation", "n", False] == "not_a_set"


def test_mac_and_key_id_changed_looks_like_another_passphrase(sealed: dict[str, Any]) -> None:
    manifest = copy.deepcopy(sealed)
    manifest["authentication"]["mac"] = "00" * 32
    manifest["authentication"]["key_id"] = "00" * 8
    assert diagnosis_of(manifest) == "wrong_passphrase"


def test_comparison_takes_constant_time(sealed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compare(a: Any, b: Any) -> bool:
        seen.append((a, b))
        return True

    monkeypatch.setattr(_manifest.hmac, "compare_digest", compare)
    broken = copy.deepcopy(sealed)
    broken["authentication"]["mac"] = "00" * 32
    assert check(broken) is True
    assert len(seen) == 1
    assert seen[0][1] == "00" * 32


# --- reading ----------------------------------------------------------------------------------------------------

BAD_FILES = {
    "empty": b"",
    "no JSON": b"<html>",
    "not UTF-8": b'{"a": "\xff"}',
    "BOM": b"\xef\xbb\xbf{}",
    "a list": b"[]",
    "another type": b'{"type": "something", "schema": 1}',
    "no schema": b'{"type": "odk-central-backup-set"}',
    "schema of text": b'{"type": "odk-central-backup-set", "schema": "2"}',
    "schema true": b'{"type": "odk-central-backup-set", "schema": true}',
    "schema zero": b'{"type": "odk-central-backup-set", "schema": 0}',
    "NaN": b'{"type": "odk-central-backup-set", "schema": NaN}',
    "a decimal number": b'{"type": "odk-central-backup-set", "schema": 1.0}',
    "a huge number": b'{"type": "odk-central-backup-set", "schema": 1' + b"0" * 5000 + b"}",
    "duplicate keys": b'{"type": "odk-central-backup-set", "schema": 2, "schema": 2}',
    "half a surrogate": b'{"type": "odk-central-backup-set", "schema": 1, "a": "\\ud800"}',
    "deep": b"[" * 100000,
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_no_manifest(name: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(CentralError) as caught:
        _manifest.read(str(path))
    assert caught.value.diagnosis == "not_a_set"
    assert str(path) in caught.value.message


def test_duplicate_key_deep_inside(sealed: dict[str, Any]) -> None:
    text = _manifest.render(sealed).replace(b'"public.forms": 3', b'"public.forms": 3, "public.forms": 3')
    with pytest.raises(CentralError) as caught:
        _manifest.parse(text)
    assert caught.value.diagnosis == "not_a_set"


def test_newer_schema_whatever_else_is_in_it() -> None:
    with pytest.raises(CentralError) as caught:
        _manifest.parse(b'{"type": "odk-central-backup-set", "schema": 2}')
    assert caught.value.diagnosis == "manifest_too_new"
    assert caught.value.details == {"schema": 2}


def test_size_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: a reader that read it all would not come back
    with pytest.raises(CentralError) as caught:
        _manifest.read(str(path))
    assert caught.value.diagnosis == "not_a_set"


def test_no_plain_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"{}")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "folder").mkdir()
    subprocess.run(["mkfifo", str(tmp_path / "pipe")], check=True)
    for name in ("link", "pipe", "folder", "absent"):
        with pytest.raises(CentralError) as caught:
            _manifest.read(str(tmp_path / name))
        assert caught.value.diagnosis in ("not_a_set", "unreadable"), name


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 5000), st.integers(0, 50))
def test_damage_never_raises_anything_else(sealed: dict[str, Any], noise: bytes, position: int, cut: int) -> None:
    text = _manifest.render(sealed)
    position %= len(text)
    try:
        _manifest.check(_manifest.parse(text[:position] + noise + text[position + cut :]), SET_ID, CENTRAL, None)
    except CentralError as error:
        assert error.diagnosis in ("not_a_set", "manifest_too_new", "tampered")


# --- building ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"absent": {"enketo": "No.", "config": "No."}},
        {"absent": {**ABSENT, "blobs": ""}},
        {"absent": {**ABSENT, "database": "Both here and absent."}},
        {"absent": {**ABSENT, "mail": "No such part."}},
        {"parts": {"database": {**database_part(), "file": "../database.pgdump.enc.bin"}}},
        {"parts": {"database": {**database_part(), "file": "database.zip"}}},
        {"parts": {"database": {**database_part(), "file": "database.pgdump.enc.bin", "sha256": "AB" * 32}}},
        {"parts": {"database": {**database_part(), "file": "database.pgdump.enc.bin", "size": -1}}},
        {"parts": {"database": {**database_part(), "file": "database.pgdump.enc.bin", "ratio": 0.5}}},
        {"started": "yesterday"},
        {"notes": [1]},
        {"database": []},
    ],
)
def test_what_cannot_be_built(changes: dict[str, Any]) -> None:
    with pytest.raises(CentralError) as caught:
        unsealed(**changes)
    assert caught.value.diagnosis == "bad_manifest"


def test_sealing_needs_a_salt() -> None:
    with pytest.raises(ValueError, match="salt"):
        _manifest.seal(unsealed(), PASSPHRASE)


def test_version_is_that_of_the_collection() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert galaxy["version"] == _manifest.COLLECTION_VERSION


def test_written_for_people(sealed: dict[str, Any]) -> None:
    text = _manifest.render(sealed).decode()
    assert text.endswith("}\n")
    assert '\n  "central": "central.example.org",\n' in text
    assert PASSPHRASE not in text
