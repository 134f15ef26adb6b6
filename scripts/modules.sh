#!/usr/bin/env bash
# modules.sh check MODULE...  fails where a module is not tidy or does not build and vet alone, outside the workspace
# modules.sh tidy MODULE...   makes them tidy, with the same version of a dependency in all of them
set -euo pipefail

go=${GO:-go}
action=$1
shift

tidy() {
  "$go" work sync
  local module
  for module in "$@"; do
    (cd "$module" && GOWORK=off "$go" mod tidy)
  done
}

check() {
  local module failed=0
  export GOWORK=off
  for module in "$@"; do
    echo "module $module"
    (cd "$module" && "$go" mod tidy -diff) || { echo "$module/go.mod is not tidy: make tidy"; failed=1; }
    # /dev/null: a module with one program would otherwise leave it in its folder.
    (cd "$module" && "$go" build -o /dev/null ./...) || { echo "$module does not build alone"; failed=1; }
    (cd "$module" && "$go" vet ./...) || { echo "$module does not vet alone"; failed=1; }
  done
  return "$failed"
}

case $action in
  check | tidy) "$action" "$@" ;;
  *) echo "modules.sh: want check or tidy, got $action" >&2; exit 2 ;;
esac
