#!/bin/sh
# Brings Temporal's two databases to this server version's schema. Safe to run again: `setup-schema` leaves alone what has a
# version, `update-schema` runs only what is missing. The databases and their owner come from postgres-init.sh.
set -eu

bring_up_to_date() {
    database=$1
    schema=$2
    tool="temporal-sql-tool --plugin postgres12 --ep $POSTGRES_SEEDS --port $DB_PORT --user $POSTGRES_USER --db $database"
    echo "Schema of $database"
    $tool setup-schema -v 0.0
    $tool update-schema -d "/etc/temporal/schema/postgresql/v12/$schema/versioned"
}

bring_up_to_date temporal temporal
bring_up_to_date temporal_visibility visibility
echo "Temporal's schema is at this version."
