# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the collection: it may change at any time.

"""Attributes of modules, described once."""

from __future__ import annotations


class ModuleDocFragment:
    """Descriptions of what a module supports. Each module says how far it does."""

    # Every module extends this one and fills in its support.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode, and then says truthfully what it would do without changing anything.
  diff_mode:
    description: Shows what it has changed, or would change, in diff mode.
  idempotent:
    description:
      - A second run with the same options, while nothing else has changed, reports no change.
"""

    # In addition to the first one, for modules that only look.
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    support: full
    details:
      - This module changes nothing.
"""

    # In addition, for members of the action group.
    ACTIONGROUP_CENTRAL = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/odkops.central.central) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - odkops.central.central
"""
