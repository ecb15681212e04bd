#!/bin/bash
# Runs once, when the volume is new: Temporal's own role and its two databases. That role cannot connect to ours: provisioning takes
# that right from everybody and gives it to our roles alone. Ours are made by `alpha-panda provision`.
set -euo pipefail

psql --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --set=password="$TEMPORAL_POSTGRES_PASSWORD" <<'SQL'
CREATE ROLE temporal LOGIN PASSWORD :'password';
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
REVOKE ALL ON DATABASE temporal, temporal_visibility FROM PUBLIC;
SQL
