#!/bin/sh
# Makes the passwords of compose.yaml, once, into secrets/ beside it, and the folder of PostgreSQL. Nothing is replaced:
# a password that is overwritten locks out whoever still has the old one.
#
#   sudo RELAY_UID=10001 deploy/docker/secrets.sh
#
# RELAY_UID is the user of the containers; without it the files stay yours.
set -eu
umask 077
cd "$(dirname "$0")"
files="database_password postgres_password database_url redis_conf redis_url"
for file in $files; do
  [ ! -e "secrets/$file" ] || { echo "secrets/$file exists, and is not replaced" >&2; exit 1; }
done
mkdir -p secrets postgres

random() {
  od -An -N 24 -t x1 /dev/urandom | tr -d ' \n'
}

database=$(random)
redis=$(random)
random > secrets/postgres_password
printf '%s' "$database" > secrets/database_password
printf 'postgresql://relay:%s@postgres/relay' "$database" > secrets/database_url
printf 'redis://default:%s@redis:6379/0' "$redis" > secrets/redis_url
printf 'requirepass %s\nport 6379\nprotected-mode yes\nsave ""\nappendonly no\nmaxmemory 192mb\nmaxmemory-policy noeviction\n' \
  "$redis" > secrets/redis_conf
[ -z "${RELAY_UID:-}" ] || chown -R "$RELAY_UID" secrets postgres
echo 'secrets/ and postgres/ are made.'
