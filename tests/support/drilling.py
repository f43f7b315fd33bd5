# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Central, sets of it for drills, sound and spoilt ones, and looking at what drills leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils import _manifest
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import TarMember, open_tar_part

from .demo import Demo
from .paths import BIN, COLLECTION
from .playbooks import PlaybookResult, ansible_environment, run_playbook
from .s3_servers import rclone_program

PASSPHRASE = "correct horse battery staple 42"
LABEL = "org.odkops.drill"


@dataclass
class DrillSite:
    """A Central that serves, the repository with its sets, and the directory of drills."""

    demo: Demo
    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def root(self) -> Path:
        return self.folder / "drills"

    def host(self, **variables: Any) -> dict[str, Any]:
        return {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "central_project_directory": self.demo["compose_dir"],
            "central_project": self.demo["compose_project"],
            "central_repository": str(self.repository),
            "central_method": "pg_dump",
            "central_s3_server": f"http://127.0.0.1:{self.demo['ports']['S3_PORT']}",
            "central_rclone_path": rclone_program(),
            "central_drill_root": str(self.root),
            **variables,
        }

    def files(self, hosts: dict[str, dict[str, Any]]) -> tuple[Path, Path]:
        inventory, extra = self.folder / "inventory.json", self.folder / "variables.json"
        inventory.write_text(json.dumps({"odk_central": {"hosts": hosts}}), "utf-8")
        extra.touch(mode=0o600)
        extra.write_text(json.dumps({"central_passphrase": PASSPHRASE}), "utf-8")
        return inventory, extra

    def run(
        self, playbook: str, *names: str, check: bool = False, hosts: dict[str, Any] | None = None, **variables: Any
    ) -> PlaybookResult:
        """Run a playbook for Centrals with these names, with variables for all of them."""
        inventory, extra = self.files(hosts or {name: self.host(**variables) for name in names})
        return run_playbook(playbook, inventory, extra, check=check, timeout=1800)

    def start(self, *names: str, **variables: Any) -> subprocess.Popen[bytes]:
        """Begin with a drill, as in a terminal of its own."""
        inventory, extra = self.files({name: self.host(**variables) for name in names})
        # Where the tests run in the background, SIGINT is ignored, and the shells of pipelines pass that on.
        hearing = (
            "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [
            sys.executable,
            "-c",
            hearing,
            str(BIN / "ansible-playbook"),
            "-i",
            str(inventory),
            f"{COLLECTION}.drill",
            "-e",
            f"@{extra}",
        ]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ansible_environment(self.folder),
            cwd=self.folder,
            start_new_session=True,
        )

    # --- what there is ----------------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """All that drills below this root have left: containers, volumes, networks, files."""
        found = []
        where = f'{{{{.Label "{LABEL}.directory"}}}}'
        for kind, command, name in (
            ("container", ("ps", "--all"), "{{.Names}}"),
            ("volume", ("volume", "ls"), "{{.Name}}"),
            ("network", ("network", "ls"), "{{.Name}}"),
        ):
            shown = self.demo.docker(*command, "--filter", f"label={LABEL}", "--format", f"{name} {where}")
            lines = (line.partition(" ") for line in shown.splitlines())
            found += [f"{kind} {named}" for named, _space, place in lines if place.startswith(str(self.root))]
        return found + [str(path) for path in self.root.glob("*")]

    def records(self, name: str) -> list[dict[str, Any]]:
        """The records of a Central's drills, the oldest first."""
        return [
            json.loads(path.read_text("utf-8")) for path in sorted((self.repository / name / "drills").glob("*.json"))
        ]

    def set_of(self, name: str) -> Path:
        (path,) = (self.repository / name / "sets").iterdir()
        return path

    # --- spoilt sets ------------------------------------------------------------------------------------------------

    def copy(self, source: str, name: str) -> Path:
        """The same set and pool as another Central's, sealed again. Returns the set."""
        shutil.copytree(self.repository / source, self.repository / name, ignore=shutil.ignore_patterns("drills"))
        self.reseal(name, lambda manifest: manifest.update(central=name))
        return self.set_of(name)

    def reseal(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a manifest as only somebody with the passphrase can."""
        path = self.set_of(name) / "manifest.json"
        manifest = json.loads(path.read_text("utf-8"))
        change(manifest)
        salt = bytes.fromhex(manifest["authentication"]["key_id_salt"])
        path.write_bytes(_manifest.render(_manifest.seal(manifest, PASSPHRASE, salt)))

    def rewrite_enketo(self, name: str, change: Callable[[str, bytes], bytes]) -> None:
        """Write the Enketo part of a set anew, with members changed, and seal the set again."""
        path = self.set_of(name) / "enketo.tar.enc.bin"
        with open_tar_part(str(path), PASSPHRASE) as members:
            contents = {member.name: _all(member) for member in members}
        path.unlink()
        with TarPart(str(path), PASSPHRASE) as part:
            for member, content in contents.items():
                part.add(member, change(member, content))
            part.commit()
        digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        self.reseal(name, lambda manifest: manifest["parts"]["enketo"].update(sha256=digest, size=size))


def _all(source: TarMember) -> bytes:
    return b"".join(iter(lambda: source.read(65536), b""))


def interrupt(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a process and all that it has started in its terminal."""
    os.killpg(process.pid, number)
    process.wait(120)
