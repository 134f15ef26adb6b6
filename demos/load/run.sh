#!/usr/bin/env bash
# Sends the programs of mixed.jsonl to a running platform, again and again, and prints what became of them.
#
#   demos/load/run.sh             80 evaluations, to http://127.0.0.1:8080
#   demos/load/run.sh 125         1,000 evaluations
#   CRUCIBLE_URL=http://host:8080 demos/load/run.sh
set -euo pipefail
cd "$(dirname "$0")"
crucible=${CRUCIBLE:-$(command -v crucible || echo ../../bin/crucible)}
exec "$crucible" batch mixed.jsonl --repeat "${1:-10}"
