#!/usr/bin/env bash
# Runs the tests of the given packages with coverage. Writes coverage/profile.txt, coverage/functions.txt,
# coverage/index.html and coverage/badge.json (the "endpoint" format of shields.io), and prints the total.
set -euo pipefail

go=${GO:-go}
out=coverage
mkdir -p "$out"

"$go" test -covermode=atomic -coverprofile="$out/profile.txt" -coverpkg="$(IFS=,; echo "$*")" "$@"
"$go" tool cover -func="$out/profile.txt" >"$out/functions.txt"
"$go" tool cover -html="$out/profile.txt" -o "$out/index.html"

total=$(awk 'END {sub("%", "", $NF); print $NF}' "$out/functions.txt")
color=$(awk -v total="$total" 'BEGIN {print (total >= 80) ? "brightgreen" : (total >= 60) ? "yellow" : "red"}')
printf '{"schemaVersion":1,"label":"coverage","message":"%s%%","color":"%s"}\n' "$total" "$color" >"$out/badge.json"
echo "coverage: $total% of statements; see $out/index.html"
