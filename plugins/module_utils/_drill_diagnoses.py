# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The diagnoses of drills, a part of _diagnoses.py."""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._diagnosis import Diagnosis

#: what is wrong with a drill
DRILL: dict[str, Diagnosis] = {
    "drill_impossible": Diagnosis(
        "No drill can be made on that host: an image is missing, the checkout is no Central, or there is too little memory or "
        "disk.",
        "The message says what is missing. Nothing was made. Drill on another host, or make room.",
    ),
    "host_unreachable": Diagnosis(
        "The host on which a drill takes place could not be reached, before it or in its course.",
        "See to it that the controller reaches it again. What was left there is removed when nobody has been at work there for "
        "some minutes, or by the next drill.",
    ),
    "drill_not_isolated": Diagnosis(
        "The Central of a drill would share something with another one, or could reach it.",
        "Nothing was started, or it was removed at once. The message says what it was: look at `docker-compose.yml` and its "
        "override in the checkout, and report it.",
    ),
    "drill_not_removed": Diagnosis(
        "Something of a drill could not be removed from its host.",
        "Remove what the message names, or run `drill.yml -e central_drill_action=clean` when the cause is gone.",
    ),
}
