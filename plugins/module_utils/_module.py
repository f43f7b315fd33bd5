# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge between the engine and Ansible: results and failures of modules, in one form.

The module is handed in, so that nothing of Ansible is imported here.
"""

from __future__ import annotations

from typing import Any, Callable, NoReturn

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, MissingLibraryError
from ansible_collections.odkops.central.plugins.module_utils._termination import install


def run(module: Any, action: Callable[[], dict[str, Any]]) -> NoReturn:
    """Do what a module does, and leave through ``exit_json`` or ``fail_json``.

    A termination signal unwinds the action, so that sessions are closed and partial files are removed.

    :param module: the AnsibleModule
    :param action: returns the result; ``warnings`` in it are given to Ansible as such
    """
    install()
    try:
        result = action()
    except CentralError as error:
        details = dict(error.details)
        for warning in details.pop("warnings", []):
            module.warn(warning)
        details.update(diagnosis=error.diagnosis, changed=False)
        if isinstance(error, MissingLibraryError):
            details["exception"] = error.import_error
        module.fail_json(msg=error.message, **details)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**result)
    raise AssertionError("exit_json returned")
