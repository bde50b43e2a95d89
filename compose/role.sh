#!/bin/sh
# Run once by the image of PostgreSQL, when its volume is new: vgen's own role and database. The role is no superuser,
# and the superuser has no password afterwards: it can log in through the container's own socket alone.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv password VGEN_ROLE_PASSWORD
CREATE ROLE vgen LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
CREATE DATABASE vgen OWNER vgen;
REVOKE ALL ON DATABASE vgen FROM PUBLIC;
ALTER ROLE CURRENT_USER PASSWORD NULL;
SQL
