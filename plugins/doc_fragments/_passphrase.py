# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The argument specs that go with these fragments are in plugins/module_utils/_args.py.
# Private to the collection: it may change at any time.

"""Options about the passphrase of a backup, shared by several modules."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the passphrase options."""

    # For whatever reads a backup, and as the base of whatever makes one.
    DOCUMENTATION = r"""
options:
  passphrase:
    description:
      - The passphrase of the backup, a text.
      - A passphrase of digits only has to be in quotes. A number is refused, because YAML reads V(0123) as the number 83,
        and a passphrase that nobody knows would open the backup.
      - At most one of O(passphrase) and O(passphrase_file) can be given.
      - Ansible hides this value by replacing it wherever it occurs in the task's result.
        A passphrase that is also part of a path makes that path unreadable in the result;
        O(passphrase_file) has no such effect.
      - The empty string is the same as not giving the option.
    type: raw
  passphrase_file:
    description:
      - Path of a file that holds the passphrase of the backup, on the host where the module runs.
      - The first line is the passphrase, without its end of line.
      - Only its owner should be able to read the file.
    type: path
"""

    # Additional options for whatever makes a backup.
    MAKER = r"""
options:
  allow_unencrypted:
    description:
      - Whether a backup may be made without a passphrase.
      - Whoever can read such a backup has all submissions, attachments and password hashes of the Central.
    type: bool
    default: false
  allow_weak_passphrase:
    description:
      - Whether a passphrase may be used that is refused as too weak.
      - The format of Central's backups stretches the passphrase by 10,000 rounds of PBKDF2 only.
        That is little, so the passphrase itself has to be strong.
    type: bool
    default: false
"""
