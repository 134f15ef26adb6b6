#!/usr/bin/env bash
# Fails when `make generate` would change a file. It works on a copy, so that nobody's uncommitted work is touched.
set -euo pipefail

cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/before"

# What git tracks or would track; a file that is deleted but not yet committed is skipped.
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do
    [[ -e $file || -L $file ]] && printf '%s\0' "$file"
  done | tar --null --files-from=- -cf - | tar -xf - -C "$work/before"

cp -a "$work/before" "$work/after"
make --no-print-directory -C "$work/after" generate
if ! diff -r -u "$work/before" "$work/after"; then
  echo "verify: generated files are not up to date: run make generate and commit what changes" >&2
  exit 1
fi
echo "verify: generated files are up to date"
