# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The API: our own code under stock paths, with the release's PostgreSQL client.
ARG NODE
FROM ${NODE}
WORKDIR /usr/odk
RUN apt-get update \
    && apt-get install -y --no-install-recommends cron gpg postgresql-client \
    && rm -rf /var/lib/apt/lists/*
COPY server/ ./
COPY files/shared/envsub.awk /scripts/
COPY files/service/scripts/ ./
COPY files/service/config.json.template /usr/share/odk/
COPY files/service/crontab /etc/cron.d/odk
COPY files/service/odk-cmd /usr/bin/
RUN mkdir -p config lib/model/migrations \
    && chmod 0644 /etc/cron.d/odk \
    && node lib/bin/select-version.js
EXPOSE 8383
