# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Stock upgrades PostgreSQL 9.6 here. A demo has no such data: this only sets the flag of a finished upgrade.
ARG BASE
FROM ${BASE}
# Stock asks the administrator to make this file; without it the build fails.
COPY files/allow-postgres14-upgrade /
COPY files/postgres14/upgrade-postgres.sh /usr/local/bin/
ENV PGDATAOLD=/var/lib/postgresql/data PGDATANEW=/var/lib/postgresql/14/data
CMD ["upgrade-postgres.sh"]
