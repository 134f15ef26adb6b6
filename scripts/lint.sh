#!/usr/bin/env bash
# Checks format, go vet, go fix and staticcheck in the given modules. What staticcheck leaves out, and why, stands
# in staticcheck.conf.
set -euo pipefail

go=${GO:-go}
staticcheck=${STATICCHECK:?the path of staticcheck}
failed=0

unformatted=$(gofmt -l "$@" tools)
if [[ -n $unformatted ]]; then
  printf 'gofmt: these files are not formatted (make fmt):\n%s\n' "$unformatted"
  failed=1
fi

check() { # module tool...
  local module=$1
  shift
  (cd "$module" && "$@") || { echo "lint: $module: $1 ${2:-} found the above"; failed=1; }
}

for module in "$@"; do
  # go fix -diff prints what it would change, and then fails.
  check "$module" "$go" vet ./...
  check "$module" "$go" fix -diff ./...
  check "$module" "$staticcheck" -tests ./...
done
export GOWORK=off
check tools "$go" vet ./...
check tools "$go" fix -diff ./...
check tools "$staticcheck" -tests ./...

exit "$failed"
