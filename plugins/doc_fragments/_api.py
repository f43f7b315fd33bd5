# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The argument spec that goes with this fragment is in plugins/module_utils/_api_args.py.
# Private to the collection: it may change at any time.

"""Options of modules that talk to Central's HTTP API."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the options that say how to reach a Central, and who asks."""

    DOCUMENTATION = r"""
options:
  url:
    description:
      - The address of the site, such as V(https://central.example.org), without a path.
      - Plain HTTP is taken for the host itself (V(http://127.0.0.1:8383), V(http://localhost)) only,
        unless O(allow_http=true).
    type: str
    required: true
  auth_method:
    description:
      - V(session) logs in with O(email) and O(password), and logs out at the end.
      - V(basic) sends O(email) and O(password) with each request. No session is opened.
      - V(token) uses a session's token that was obtained elsewhere, and leaves that session open.
        It is the only way where people log in through OpenID Connect.
    type: str
    choices: [session, basic, token]
    default: session
  email:
    description:
      - The e-mail address of an account with the site-wide role Administrator.
      - Needed with O(auth_method=session) and O(auth_method=basic).
    type: str
  password:
    description:
      - The password of that account.
      - One of O(password) and O(password_file) is needed with O(auth_method=session) and O(auth_method=basic).
      - Ansible hides this value by replacing it wherever it occurs in the task's result, in paths also.
        O(password_file) has no such effect.
    type: str
  password_file:
    description:
      - Path of a file whose first line is the password, on the host where the module runs.
    type: path
  token:
    description:
      - The token of a session, needed with O(auth_method=token).
    type: str
  allow_http:
    description:
      - Whether password, passphrase and data may cross the network in clear, to another host, by plain HTTP.
    type: bool
    default: false
  validate_certs:
    description:
      - Whether the server's certificate is checked.
      - With V(false), anybody between here and the server can read the password and the data.
        O(ca_path) is the better way to accept a certificate of one's own.
    type: bool
    default: true
  ca_path:
    description:
      - A PEM file with the certificates to trust, instead of the system's.
    type: path
  connect_timeout:
    description:
      - Seconds within which the connection must stand.
    type: float
    default: 10
  read_timeout:
    description:
      - Seconds that may pass without a byte from the server.
      - A dump may wait for locks before its first byte. Central's own proxy gives up after 120 seconds.
    type: float
    default: 300
"""
