#!/bin/sh
# Run once by PostgreSQL's image, in an empty data folder: Relay's own role and database. The role is no superuser.
set -eu
PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
export PGPASSWORD
# The password goes in by a variable of psql's that is read from the file: it stands in no argument and no statement here.
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres <<'END'
\set password `cat /run/secrets/database_password`
SET password_encryption = 'scram-sha-256';
CREATE ROLE relay LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE relay OWNER relay;
REVOKE ALL ON DATABASE relay FROM PUBLIC;
END
