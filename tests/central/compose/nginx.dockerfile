# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# nginx in front, configured by the stock steps: templates, envsub, customssl.
ARG BASE
FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx-light perl-base \
    && rm -rf /var/lib/apt/lists/* /etc/nginx/sites-enabled/default \
    && ln -sf /dev/stdout /var/log/nginx/access.log \
    && ln -sf /dev/stderr /var/log/nginx/error.log \
    && mkdir -p /usr/share/odk/nginx /usr/share/nginx/html
VOLUME ["/etc/dh", "/etc/selfsign"]
COPY files/nginx/setup-odk.sh files/shared/envsub.awk /scripts/
COPY files/nginx/redirector.conf files/nginx/backend.conf files/nginx/common-headers.conf /usr/share/odk/nginx/
COPY files/nginx/html/ /usr/share/nginx/html/
COPY files/nginx/version.txt /usr/share/odk/
EXPOSE 80
EXPOSE 443
ENTRYPOINT ["/scripts/setup-odk.sh"]
