#!/bin/sh
# Starts Prometheus with the API's port in its configuration, which cannot read the environment itself.
set -eu

sed "s/API_PORT/$API_PORT/" /etc/prometheus/template.yml > /tmp/prometheus.yml
exec prometheus --config.file=/tmp/prometheus.yml --storage.tsdb.path=/prometheus --storage.tsdb.retention.time=30d
