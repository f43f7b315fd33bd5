#!/bin/bash -eu
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Writes nginx's configuration from its templates at every start, then becomes nginx.
set -o pipefail
case "$OIDC_ENABLED" in
  true|false) ;;
  *) echo 'OIDC_ENABLED must be either true or false'; exit 1 ;;
esac
echo "writing client config..."
/scripts/envsub.awk < /usr/share/odk/nginx/client-config.json.template > /usr/share/nginx/html/client-config.json

# Not in stock, where version.txt comes from git: the version that the demo runs as.
cp /usr/share/odk/version.txt /usr/share/nginx/html/version.txt
if [ -n "${DEMO_CENTRAL_VERSION-}" ]; then
  sed -i "s/(v[^)]*)/(${DEMO_CENTRAL_VERSION}-demo)/" /usr/share/nginx/html/version.txt
fi

# The certificate of the catch-all listener is never seen by anyone who asks for the right name.
mkdir -p /etc/nginx/ssl
if [ ! -s /etc/nginx/ssl/nginx.default.crt ]; then
  openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=invalid.local -days 365000 \
    -keyout /etc/nginx/ssl/nginx.default.key -out /etc/nginx/ssl/nginx.default.crt 2>/dev/null
fi
# A named group: stock computes a new one, which takes a minute.
if [ ! -s /etc/dh/nginx.pem ]; then
  openssl genpkey -genparam -algorithm DH -pkeyopt group:ffdhe2048 -out /etc/dh/nginx.pem
fi
case "$SSL_TYPE" in
  customssl) CERT_DOMAIN=local ;;
  selfsign)
    CERT_DOMAIN="$DOMAIN"
    live="/etc/selfsign/live/$DOMAIN"
    if [ ! -s "$live/privkey.pem" ]; then
      mkdir -p "$live"
      openssl req -x509 -newkey rsa:2048 -nodes -sha256 -days 3650 -subj /CN=localhost \
        -keyout "$live/privkey.pem" -out "$live/fullchain.pem" 2>/dev/null
    fi ;;
  upstream) CERT_DOMAIN="$DOMAIN" ;;
  *) echo "SSL_TYPE=$SSL_TYPE: the demo Central knows customssl, selfsign and upstream"; exit 1 ;;
esac
export CERT_DOMAIN
echo "writing fresh nginx templates..."
/scripts/envsub.awk < /usr/share/odk/nginx/redirector.conf > /etc/nginx/conf.d/redirector.conf
/scripts/envsub.awk < /usr/share/odk/nginx/odk.conf.template > /etc/nginx/conf.d/odk.conf
if [ "$SSL_TYPE" = upstream ]; then
  rm -f /etc/nginx/conf.d/redirector.conf
  perl -i -ne 's/listen 443.*/listen 80;/; print if ! /\bssl_/' /etc/nginx/conf.d/odk.conf
  perl -i -pe 's/X-Forwarded-Proto \$scheme/X-Forwarded-Proto https/' /usr/share/odk/nginx/backend.conf
fi
echo "starting nginx..."
exec nginx -g "daemon off;"
