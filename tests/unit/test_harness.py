# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The test harness itself: it tells the truth about modules, playbooks and skipped tests."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support import call_module, run_module, run_playbook, write_inventory
from support.demo import Demo
from support.paths import ROOT, TESTS

MODULE = """
import json, os, sys
from ansible.module_utils.basic import AnsibleModule

def main():
    spec = dict(text=dict(type="str", required=True), secret=dict(type="str", no_log=True))
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    if module.params["text"] == "bad":
        module.fail_json(msg="It is bad.", diagnosis="bad_text")
    environment = sorted(name for name in os.environ if name.startswith(("ANSIBLE_", "PYTHONPATH")))
    module.exit_json(changed=not module.check_mode, text=module.params["text"], argv=sys.argv, environment=environment)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module to try the harness on."""
    path = tmp_path / "trial.py"
    path.write_text(MODULE, "utf-8")
    return path


def load(path: Path) -> ModuleType:
    """Import a Python file."""
    spec = importlib.util.spec_from_file_location("trial", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_run_module_is_a_clean_process(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_STRATEGY", "free")
    done = run_module(module, {"text": "tab\t☃", "secret": "hush"})
    assert (done.rc, done["changed"], done["text"], done.failed) == (0, True, "tab\t☃", False)
    assert done["argv"] == [str(module)]
    assert done["environment"] == []
    assert "hush" not in done.stdout + done.stderr


def test_run_module_check_mode_and_failure(module: Path) -> None:
    assert run_module(module, {"text": "x"}, check=True)["changed"] is False
    done = run_module(module, {"text": "bad"})
    assert (done.failed, done.diagnosis, done.rc) == (True, "bad_text", 1)
    assert "required" in run_module(module, {})["msg"]


def test_run_module_that_dies(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)\n", "utf-8")
    done = run_module(broken, {})
    assert (done.failed, done.rc, done.result) == (True, 3, {})


def test_run_module_kills_what_hangs(tmp_path: Path) -> None:
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time\ntime.sleep(60)\n", "utf-8")
    with pytest.raises(subprocess.TimeoutExpired):
        run_module(hanging, {}, timeout=0.5)


def test_call_module_each_time_anew(module: Path) -> None:
    main = load(module).main
    assert call_module(main, {"text": "a"})["text"] == "a"
    assert call_module(main, {"text": "b"}, check=True)["changed"] is False
    assert call_module(main, {"text": "bad"}).diagnosis == "bad_text"
    assert call_module(main, {}).failed


def test_run_playbook_records_results(tmp_path: Path) -> None:
    playbook = tmp_path / "play.yml"
    tasks = [
        {"name": "Say", "ansible.builtin.debug": {"msg": "{{ central_name }}"}},
        {"name": "Keep", "ansible.builtin.set_stats": {"data": {"seen": 1}, "per_host": False}},
        {"name": "Stop", "ansible.builtin.assert": {"that": ["inventory_hostname == 'one'"]}},
    ]
    playbook.write_text(json.dumps([{"hosts": "odk_central", "gather_facts": False, "tasks": tasks}]), "utf-8")
    state = {"url": "https://localhost:1", "ca_path": "/ca.pem", "admin": {"email": "a@b.org", "password": "p"}}
    demo = Demo("one", state)
    inventory = write_inventory(
        tmp_path / "hosts.yml", {"one": demo, "two": demo}, central_name={"one": "x", "two": "y"}
    )
    assert inventory.stat().st_mode & 0o777 == 0o600

    done = run_playbook(playbook, inventory)

    assert done.rc == 2
    assert [result["msg"] for result in done.of("debug", "one")] == ["x"]
    assert (done.hosts["one"]["failures"], done.hosts["two"]["failures"]) == (0, 1)
    assert done.custom == {"_run": {"seen": 2}}  # Ansible adds numbers up over hosts


def test_collection_is_found_from_any_folder(tmp_path: Path) -> None:
    code = "import ansible_collections.odkops.central.plugins.module_utils._errors as m; print(m.__file__)"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).resolve() == ROOT / "plugins/module_utils/_errors.py"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("import pytest\ndef test_it():\n    pytest.skip('not today')\n", 1),
        ("import pytest\npytest.skip('not at all', allow_module_level=True)\n", 1),
        ("import pytest\ndef test_it():\n    pytest.skip('sample files absent: no folder')\ndef test_two(): pass\n", 0),
        ("def test_it():\n    pass\n", 0),
        ("def test_it():\n    assert False\n", 1),
        ("", 5),
    ],
)
def test_nothing_is_skipped_in_silence(tmp_path: Path, body: str, code: int) -> None:
    file = tmp_path / "test_trial.py"
    file.write_text(body, "utf-8")
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command += ["-c", os.devnull, str(file)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    if "allow_module_level" in body:
        assert done.returncode in (1, 5), done.stdout  # nothing ran at all: 5, which is no success either
    else:
        assert done.returncode == code, done.stdout
    assert ("skipped without leave" in done.stdout) == ("not " in body), done.stdout
