# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images: Debian packages on a base that is pulled, or made with debootstrap where no registry answers.

Each tag is a digest of everything the image is made from, so nothing is built twice and no change is missed.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .engine import SEARCH
from .paths import STATE, TEMPLATE
from .run import DemoError, run, say, succeeds
from .state import lock

RELEASES = {"bookworm": 15, "trixie": 17}
REPOSITORY = "odkdemo"
PULL_SECONDS = 20


@dataclass(frozen=True)
class Image:
    """An image: its name (and dockerfile), and the build argument that names the image it is built on."""

    name: str
    argument: str
    parent: str


#: Those that take long first, as far as they can.
IMAGES = (
    Image("base", "ROOT", "root"),
    Image("postgres14", "BASE", "base"),
    Image("node", "BASE", "base"),
    Image("service", "NODE", "node"),
    Image("nginx", "BASE", "base"),
    Image("redis", "BASE", "base"),
    Image("enketo", "NODE", "node"),
    Image("postgres-upgrade", "BASE", "base"),
    Image("secrets", "BASE", "base"),
)

#: Compose service -> image.
SERVICES = {
    "postgres14": "postgres14",
    "postgres": "postgres-upgrade",
    "service": "service",
    "nginx": "nginx",
    "secrets": "secrets",
    "enketo": "enketo",
    "enketo_redis_main": "redis",
    "enketo_redis_cache": "redis",
}


#: On top of Debian: the host's way to its packages (mirror, proxy, clock settings), and dpkg without fsync or docs.
ROOT_STEPS = """\
COPY sources.list apt.conf dpkg.conf /etc/apt/demo/
RUN rm -f /etc/apt/sources.list.d/* \\
    && mv /etc/apt/demo/sources.list /etc/apt/sources.list \\
    && mv /etc/apt/demo/apt.conf /etc/apt/apt.conf.d/99demo \\
    && mv /etc/apt/demo/dpkg.conf /etc/dpkg/dpkg.cfg.d/99demo \\
    && rmdir /etc/apt/demo
"""
DPKG_SETTINGS = "force-unsafe-io\npath-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\n"


def check_release(release: str) -> None:
    """:class:`DemoError` unless the release is known."""
    if release not in RELEASES:
        raise DemoError(f"--release {release}: known are {', '.join(RELEASES)}")


def _context(image: Image) -> bytes:
    """The build context as a tar file: the dockerfile and what it copies, the same bytes for the same content."""
    dockerfile = TEMPLATE / f"{image.name}.dockerfile"
    paths = {dockerfile}
    for line in re.sub(r"\\\n", " ", dockerfile.read_text("utf-8")).splitlines():
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                if source == "files/allow-postgres14-upgrade":
                    continue
                place = TEMPLATE / source
                paths |= {p for p in place.rglob("*") if p.is_file()} if place.is_dir() else {place}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(paths):
            data = path.read_bytes()
            _add(archive, str(path.relative_to(TEMPLATE)), data, 0o755 if path.stat().st_mode & 0o100 else 0o644)
        if image.name == "postgres-upgrade":
            # What an administrator of a stock Central makes by hand before building.
            _add(archive, "files/allow-postgres14-upgrade", b"", 0o644)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def tags(release: str) -> dict[str, str]:
    """The tag of each image as the files are now. Reads no engine."""
    steps = hashlib.sha256((ROOT_STEPS + DPKG_SETTINGS).encode()).hexdigest()[:16]
    found = {"root": f"{REPOSITORY}/root:{release}-{steps}"}
    for image in IMAGES:
        digest = hashlib.sha256(found[image.parent].encode() + _context(image)).hexdigest()[:16]
        found[image.name] = f"{REPOSITORY}/{image.name}:{release}-{digest}"
    return found


def ensure(release: str) -> dict[str, str]:
    """Build what is missing; returns :func:`tags`."""
    check_release(release)
    wanted = tags(release)
    if not _missing(wanted):
        return wanted
    with lock("images"):
        missing = _missing(wanted)
        if "base" in missing:
            _ensure_root(release, wanted["root"])
        _build_all([image for image in IMAGES if image.name in missing], wanted)
    return wanted


def _build_all(missing: list[Image], wanted: dict[str, str]) -> None:
    """Build images, each after the one that it is built on, two at a time: one downloads while another unpacks."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        begun: dict[str, Future[None]] = {}
        for image in missing:  # a parent comes before its children in IMAGES, so waiting for it cannot block it
            begun[image.name] = pool.submit(_build, image, wanted, begun.get(image.parent))
        for each in begun.values():
            each.result()


def _missing(wanted: dict[str, str]) -> set[str]:
    listed = run(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).stdout.split()
    return {name for name, tag in wanted.items() if tag not in listed}


def _build(image: Image, wanted: dict[str, str], parent: Future[None] | None) -> None:
    if parent is not None:
        parent.result()
    started = time.monotonic()
    command = ["docker", "build", "--quiet", "-f", f"{image.name}.dockerfile", "-t", wanted[image.name]]
    command += ["--build-arg", f"{image.argument}={wanted[image.parent]}"]
    if _proxy_on_loopback():
        command += ["--network", "host"]
    # The legacy builder: Debian's docker.io has no buildx.
    done = subprocess.run(
        [*command, "-"],
        input=_context(image),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        check=False,
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
        raise DemoError("\n".join([f"building {wanted[image.name]} failed:", *lines[-25:]]))
    say(f"built {wanted[image.name]} in {time.monotonic() - started:.0f} s")


def _ensure_root(release: str, tag: str) -> None:
    if succeeds(["docker", "image", "inspect", tag]):
        return
    stock = f"debian:{release}-slim"
    started = time.monotonic()
    if succeeds(["docker", "pull", "--quiet", stock], timeout=PULL_SECONDS):
        say(f"pulled {stock} in {time.monotonic() - started:.0f} s")
        source = stock
    else:
        say(f"no registry gave {stock}: making a base image with debootstrap")
        source = _debootstrap(release)
    dockerfile = f"FROM {source}\n{ROOT_STEPS}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, "Dockerfile", dockerfile.encode(), 0o644)
        _add(archive, "sources.list", _sources(release).encode(), 0o644)
        _add(archive, "apt.conf", _apt_settings().encode(), 0o644)
        _add(archive, "dpkg.conf", DPKG_SETTINGS.encode(), 0o644)
    run(["docker", "build", "--quiet", "-t", tag, "-"], stdin=buffer.getvalue(), env={"DOCKER_BUILDKIT": "0"})
    say(f"made {tag} in {time.monotonic() - started:.0f} s")


def _debootstrap(release: str) -> str:
    """Import a minimal Debian; returns its image's name."""
    if not shutil.which("debootstrap", path=SEARCH):
        raise DemoError("debootstrap is missing: `central engine` installs it (as root on Debian or Ubuntu)")
    if os.geteuid() != 0:
        raise DemoError("no registry answers, and debootstrap needs root")
    name = f"{REPOSITORY}/debootstrap:{release}"
    tree = STATE / f"debootstrap-{release}"
    _remove_tree(tree)
    try:
        keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
        trust = [f"--keyring={keyring}"] if keyring.exists() else ["--no-check-gpg"]
        run(["debootstrap", "--variant=minbase", *trust, release, str(tree), _mirror("debian")], timeout=1200)
        for litter in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(tree / litter, ignore_errors=True)
            (tree / litter / "partial").mkdir(parents=True)
        _unmount(tree)
        with subprocess.Popen(["tar", "-C", str(tree), "--one-file-system", "-c", "."], stdout=subprocess.PIPE) as tar:
            done = subprocess.run(["docker", "import", "-", name], stdin=tar.stdout, capture_output=True, check=False)
        if tar.returncode or done.returncode:
            raise DemoError(f"docker import failed: {done.stderr.decode('utf-8', 'replace')}")
    finally:
        _remove_tree(tree)
    return name


def _unmount(tree: Path) -> None:
    """Unmount what debootstrap may leave mounted below a tree (/proc, for releases newer than the host)."""
    for line in reversed(Path("/proc/mounts").read_text("utf-8").splitlines()):
        place = line.split()[1].replace("\\040", " ")
        if (place == str(tree) or place.startswith(f"{tree}/")) and run(["umount", place], check=False).returncode:
            run(["umount", "--lazy", place])  # a process of the machine has a look into it


def _remove_tree(tree: Path) -> None:
    """Remove a tree, never what is mounted in it."""
    _unmount(tree)
    shutil.rmtree(tree, ignore_errors=True)


def _mirror(archive: str) -> str:
    """The host's plain HTTP mirror of ``debian`` or ``debian-security``; Debian's own where there is none."""
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in lists:
        if path.suffix in {".list", ".sources"} and path.exists():
            text = "\n".join(line for line in path.read_text("utf-8").splitlines() if not line.startswith("#"))
            found = re.search(rf"http://\S+/{archive}(?=/?(\s|$))", text)
            if found:
                return found.group(0)
    return f"http://deb.debian.org/{archive}"


def _sources(release: str) -> str:
    debian, security = _mirror("debian"), _mirror("debian-security")
    return f"deb {debian} {release} main\ndeb {debian} {release}-updates main\ndeb {security} {release}-security main\n"


def _apt_config() -> str:
    return run(["apt-config", "dump"], check=False).stdout


def _apt_settings() -> str:
    """Proxy and clock settings of the host's apt, and no translations."""
    kept = [
        line
        for line in _apt_config().splitlines()
        if re.match(r'Acquire::(https?::Proxy|Check-Valid-Until|Check-Date) "[^"]+"', line)
    ]
    return "\n".join([*kept, 'Acquire::Languages "none";', 'APT::Install-Recommends "false";', ""])


def _proxy_on_loopback() -> bool:
    """Whether apt's proxy can be reached from the host's own network only."""
    return re.search(r'Proxy "https?://(127\.|localhost|\[::1\])', _apt_config()) is not None


def remove() -> None:
    """Remove our images, as far as no container uses them, and what an interrupted build left."""
    for tree in STATE.glob("debootstrap-*"):
        _remove_tree(tree)
    listed = run(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).stdout.split()
    ours = [tag for tag in listed if tag.startswith(f"{REPOSITORY}/")]
    order = {image.name: at for at, image in enumerate(IMAGES)}
    for tag in sorted(ours, key=lambda t: -order.get(t.split("/")[1].split(":")[0], -1)):
        run(["docker", "image", "rm", tag], check=False)
