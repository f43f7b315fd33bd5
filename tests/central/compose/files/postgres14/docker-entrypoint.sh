#!/bin/bash -eu
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# What the official image does on its first start, reduced to what a Central uses.
set -o pipefail
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
if [ "$1" != postgres ]; then exec "$@"; fi
mkdir -p "$PGDATA" /var/run/postgresql
chown postgres:postgres "$PGDATA" /var/run/postgresql
chmod 0700 "$PGDATA"
if ! [ -s "$PGDATA/PG_VERSION" ]; then
  # A first start that was interrupted leaves files behind; initdb wants an empty directory.
  find "$PGDATA" -mindepth 1 -delete
  work="$(as_postgres mktemp -d)"
  printf '%s\n' "$POSTGRES_PASSWORD" > "$work/password"
  chown -R postgres: "$work"
  # The role is the bootstrap superuser, as in stock.
  as_postgres initdb --username="$POSTGRES_USER" --pwfile="$work/password" --auth-local=trust --auth-host=trust -D "$work/data"
  echo 'host all all all scram-sha-256' >> "$work/data/pg_hba.conf"
  echo "listen_addresses = '*'" >> "$work/data/postgresql.conf"
  as_postgres pg_ctl -D "$work/data" -o "-c listen_addresses=''" -w start
  if [ "$POSTGRES_DB" != postgres ]; then
    as_postgres psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres --set db="$POSTGRES_DB" <<< 'CREATE DATABASE :"db";'
  fi
  as_postgres pg_ctl -D "$work/data" -m fast -w stop
  # PG_VERSION last: a directory without it is begun anew.
  mv "$work/data/PG_VERSION" "$work/"
  cp -a "$work/data/." "$PGDATA/"
  cp -a "$work/PG_VERSION" "$PGDATA/"
  rm -rf "$work"
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups "$@"
