#!/bin/sh
# Starts Valkey with the users of users.acl. A changed password takes effect at the next start.
set -eu
umask 077
password="$(cat /run/secrets/bearward/redis/password)"
: "${password:?the file of the password is empty}"
hash="$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)"
sed -e '/^#/d' -e "s/ PASSWORD / #$hash /" /etc/valkey/users.acl > /data/users.acl
exec valkey-server /etc/valkey/valkey.conf "$@"
