# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# A small server of ours that answers Enketo's links from Redis and the secrets.
ARG NODE
FROM ${NODE}
ENV ENKETO_SRC_DIR=/srv/src/enketo/packages/enketo-express
WORKDIR ${ENKETO_SRC_DIR}
COPY files/shared/envsub.awk /scripts/
COPY files/enketo/config.json.template ${ENKETO_SRC_DIR}/config/config.json.template
COPY files/enketo/start-enketo.sh ${ENKETO_SRC_DIR}/start-enketo.sh
COPY enketo/ ${ENKETO_SRC_DIR}/
EXPOSE 8005
CMD ["./start-enketo.sh"]
