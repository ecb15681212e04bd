#!/bin/sh
# Starts Redis with its password from the environment, handed over on standard input: command lines are for all to see.
set -eu

exec redis-server - <<CONF
bind 0.0.0.0
protected-mode yes
requirepass $REDIS_PASSWORD
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory 512mb
maxmemory-policy noeviction
CONF
