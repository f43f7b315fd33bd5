# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Argument specs of options that several modules share.

Their documentation is in the fragments of the same names: plugins/doc_fragments/_passphrase.py.
Plain dictionaries, as AnsibleModule takes them; nothing of Ansible is imported.
Each call returns a new dictionary, so that a module may add to it.
"""

from __future__ import annotations

from typing import Any

PASSPHRASE_MUTUALLY_EXCLUSIVE: tuple[tuple[str, ...], ...] = (("passphrase", "passphrase_file"),)
"""Goes into ``mutually_exclusive`` of each module that uses `passphrase_argument_spec`."""


def passphrase_argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of whatever reads a backup: ``passphrase`` and ``passphrase_file``."""
    return {
        # Not "str", which would turn a number into text, and YAML may have read 0123 as another number than was meant.
        "passphrase": {"type": "raw", "no_log": True},
        "passphrase_file": {"type": "path", "no_log": False},
    }


def maker_argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options that whatever makes a backup has in addition."""
    return {
        "allow_unencrypted": {"type": "bool", "default": False},
        "allow_weak_passphrase": {"type": "bool", "default": False, "no_log": False},
    }
