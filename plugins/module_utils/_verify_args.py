# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of modules that read a whole backup."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._args import passphrase_argument_spec
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def reader_argument_spec() -> dict[str, dict[str, Any]]:
    """The options, as AnsibleModule takes them."""
    return {
        **passphrase_argument_spec(),
        "expected_sha256": {"type": "str"},
        "known_bad_blobs": {"type": "list", "elements": "int", "default": []},
    }


def expectation_of(params: dict[str, Any]) -> Expectation:
    """What is expected of the backup; ``depth`` is ``full`` where the module has no such option.

    :raises CentralError: ``bad_option``, ``bad_passphrase``, ``unreadable``
    """
    sha256, depth = params["expected_sha256"], params.get("depth", "full")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise CentralError("bad_option", "expected_sha256 is not a SHA-256: it has 64 hexadecimal digits.")
    if sha256 is not None and depth == "passphrase":
        raise CentralError("bad_option", "expected_sha256 needs depth=full, which reads the whole file.")
    return Expectation(
        passphrase=read_passphrase(params["passphrase"], params["passphrase_file"]),
        depth=depth,
        sha256=sha256,
        known_bad_blobs=frozenset(params["known_bad_blobs"]),
    )
