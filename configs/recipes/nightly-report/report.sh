#!/bin/sh
# Fetches the day's queue through the gateway, which the proxy variables name, and prints how long it is.
set -eu

[ "${1:-}" = "--queue" ] && [ -n "${2:-}" ] || { echo "usage: report.sh --queue NAME" >&2; exit 2; }
queue=$(curl --fail --silent --show-error "http://status.example.com/api/queues/$2")
printf 'queue %s: %s characters\n' "$2" "${#queue}"
