# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real PostgreSQL of several majors, unpacked from Debian's packages into ``.cache/``; nothing is installed.

A major is a small root directory: the server, its clients, and the libraries that they load, from the
Debian release that has it. Programs run in it by chroot(2) as an ordinary user, so this needs root.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .paths import ROOT

RELEASES = {13: "bullseye", 15: "bookworm", 17: "trixie", 18: "sid"}
CACHE = ROOT / ".cache" / "postgresql"

_MIRROR = "http://deb.debian.org/debian"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_USER = 26
_PATIENCE = 8
# What the packages depend on for their installation, and programs do not load.
_NEEDLESS = re.compile(
    r"(perl|lib[a-z-]*-perl|libllvm|libz3|locales|libc-l10n|openssl_|openssl-prov|ssl-cert|ucf|debconf|sensible|adduser|"
    r"passwd|base-passwd|login|logsave|procps|sysvinit|lsb|init-system|netbase|postgresql-common|postgresql-client-common|"
    r"libsemanage|libsepol|libdb5|libperl|gcc-|libpam-modules|libgdbm|libtext|libjson|mime|media-types|python|systemd)"
)
_APT = """\
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Debug::NoLocking "true";
"""


class PostgreSQL:
    """The programs of one major."""

    def __init__(self, major: int) -> None:
        self.major = major
        self.root = CACHE / str(major)
        if os.getuid() != 0:
            raise RuntimeError("the tests with real PostgreSQL run its programs by chroot(2) and need root")
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{major}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.root / "complete").exists():
                self._unpack()

    def _unpack(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="odkops-apt-") as name:
            debs = download(Path(name), RELEASES[self.major], f"postgresql-{self.major}")
            self.root.mkdir()
            for folder in ("bin", "sbin", "lib", "lib64"):
                (self.root / "usr" / folder).mkdir(parents=True)
                (self.root / folder).symlink_to(f"usr/{folder}")
            for deb in debs:
                # tar keeps a link to a directory where dpkg-deb --extract would refuse one
                with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as tar:
                    target = ["tar", "-x", "--keep-directory-symlink", "-C", str(self.root)]
                    subprocess.run(target, stdin=tar.stdout, check=True)
        self._furnish()
        (self.root / "complete").touch()

    def _furnish(self) -> None:
        for folder in ("dev", "etc", "tmp", "data", "proc"):
            (self.root / folder).mkdir(exist_ok=True)
        os.chmod(self.root / "tmp", 0o1777)
        os.chown(self.root / "data", _USER, _USER)
        (self.root / "etc" / "passwd").write_text(f"postgres:x:{_USER}:{_USER}::/tmp:/bin/sh\n")
        (self.root / "etc" / "group").write_text(f"postgres:x:{_USER}:\n")
        for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
            path = self.root / "dev" / name
            path.unlink(missing_ok=True)
            os.mknod(path, 0o20666, os.makedev(1, minor))
            os.chmod(path, 0o666)
        shell = self.root / "bin" / "sh"
        if not shell.exists():
            shell.unlink(missing_ok=True)
            shell.symlink_to("dash")
        subprocess.run(["/sbin/ldconfig", "-r", str(self.root)], check=True)

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line that runs one of its programs."""
        path = f"/usr/lib/postgresql/{self.major}/bin/{program}"
        return ["chroot", f"--userspec={_USER}:{_USER}", str(self.root), path, *arguments]

    def run(self, program: str, *arguments: str, stdin: bytes = b"", check: bool = True) -> bytes:
        """Run a program and return what it prints."""
        done = subprocess.run(
            self.command(program, *arguments), input=stdin, capture_output=True, check=False, env=_ENVIRONMENT
        )
        if check and done.returncode:
            raise RuntimeError(f"{program} {self.major} failed: {done.stderr.decode('utf-8', 'replace')}")
        return done.stdout

    def restores(self, archive: bytes) -> bool:
        """Whether ``pg_restore --file /dev/null`` takes an archive: what the ODK docs call a test of a backup.

        On some damaged archives it runs for ever; that is no.
        """
        command = self.command("pg_restore", "--file", "/dev/null")
        try:
            done = subprocess.run(
                command, input=archive, capture_output=True, check=False, env=_ENVIRONMENT, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    @contextmanager
    def server(self) -> Iterator[Server]:
        """A server of its own, on a socket that only the root directory has, until the block ends."""
        data = Path(tempfile.mkdtemp(prefix="cluster-", dir=self.root / "data"))
        os.chown(data, _USER, _USER)
        inside = f"/data/{data.name}"
        try:
            options = ("--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=odk")
            self.run("initdb", *options, "--pgdata", inside)
            settings = (
                f"-c listen_addresses= -c unix_socket_directories={inside} -c fsync=off -c jit=off -c lc_messages=C"
            )
            settings += " -c dynamic_shared_memory_type=mmap -c autovacuum=off"
            start = ("--pgdata", inside, "--options", settings, "--log", f"{inside}/log", "-w", "start")
            # Its output goes to the log; a pipe would stay open as long as the server runs.
            subprocess.run(self.command("pg_ctl", *start), stdout=subprocess.DEVNULL, check=True, env=_ENVIRONMENT)
            try:
                yield Server(self, inside)
            finally:
                self.run("pg_ctl", "--pgdata", inside, "-m", "immediate", "-w", "stop")
        finally:
            shutil.rmtree(data, ignore_errors=True)


class Server:
    """A running server."""

    def __init__(self, programs: PostgreSQL, socket: str) -> None:
        self.programs = programs
        self._connection = ("--host", socket, "--username", "odk")

    def sql(self, database: str, script: str) -> str:
        """Run SQL; returns unaligned tuples, a tab between columns."""
        options = ("-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", "--dbname", database, "-f", "-")
        printed = self.programs.run("psql", *self._connection, *options, stdin=script.encode())
        return printed.decode("utf-8").rstrip("\n")

    def dump(self, database: str, *options: str) -> bytes:
        """``pg_dump --format=custom`` to a pipe, as Central runs it."""
        return self.programs.run("pg_dump", *self._connection, "--format=custom", *options, database)

    def dump_to_file(self, database: str, *options: str) -> bytes:
        """The same into a file, in which pg_dump goes back to note where each entry's data is."""
        path = "/tmp/dump"
        self.programs.run("pg_dump", *self._connection, "--format=custom", "--file", path, *options, database)
        outside = self.programs.root / path[1:]
        content = outside.read_bytes()
        outside.unlink()
        return content


_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC", "PGTZ": "UTC"}


def download(folder: Path, release: str, package: str) -> list[Path]:
    """Download a package and what it loads, with apt's own dependency resolution and signatures."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "apt.conf").write_text(_APT.format(folder=folder))
    (folder / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_MIRROR} {release} main\n")
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}

    def apt(*arguments: str) -> str:
        command = ["apt-get", "-y", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ({release}) failed: {done.stdout}{done.stderr}")
        return done.stdout

    apt("update")
    listed = apt("install", "--print-uris", package, "dash", "tzdata")
    names = re.findall(r"^'[^']+/([^/']+\.deb)' ([^ ]+)", listed, re.MULTILINE)
    wanted = [file.split("_", 1)[0] for _url, file in names if not _NEEDLESS.match(file)]
    apt("download", *wanted)
    return sorted(folder.glob("*.deb"))
