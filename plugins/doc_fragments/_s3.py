# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The argument spec that goes with this fragment is in plugins/module_utils/_blob_args.py.
# Private to the collection: it may change at any time.

"""Options that say where a Central's objects are, and the keys to them."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the options of S3."""

    DOCUMENTATION = r"""
options:
  s3_server:
    description:
      - The address of the S3 server, such as V(https://s3.eu-west-1.amazonaws.com).
      - Each of O(s3_server), O(s3_bucket), O(s3_access_key), O(s3_secret_key) and O(s3_prefix) that is not given is what
        the Central itself uses, if O(project_directory) or O(ssh_host) says where it runs.
        It is asked only if something has to be fetched.
    type: str
  s3_bucket:
    description: The bucket.
    type: str
  s3_access_key:
    description:
      - The access key. It has to allow C(s3:GetObject) and nothing else. One that cannot delete is the better choice for a
        host that keeps backups.
    type: str
  s3_secret_key:
    description:
      - The secret key.
      - At most one of O(s3_secret_key) and O(s3_secret_key_file) can be given.
    type: str
  s3_secret_key_file:
    description: Path of a file whose first line is the secret key, on the host where the module runs.
    type: path
  s3_prefix:
    description:
      - What comes before the name of each object. A stock Central puts nothing there.
    type: str
  s3_region:
    description:
      - The region that requests are signed for.
      - By default the one in an address of Amazon, and V(us-east-1) for any other server.
    type: str
  s3_ca_path:
    description:
      - A PEM file with the certificates to trust, instead of the system's.
    type: path
  s3_validate_certs:
    description:
      - Whether the server's certificate is checked.
    type: bool
    default: true
"""
