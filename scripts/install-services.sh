#!/usr/bin/env bash
# Makes sure that redis-server and PostgreSQL's binaries are on this machine: the tests start private copies of them.
#
# As root on Debian or Ubuntu it installs what is missing, without starting any system service. Elsewhere it says
# what is missing and how to get it, and the tests that need it skip visibly. It fails only with REQUIRE_SERVICES=1.
set -euo pipefail

limit=${INSTALL_TIMEOUT:-300} # seconds for each call of apt-get
policy=/usr/sbin/policy-rc.d  # where Debian asks whether an installed service may be started

has_redis() { command -v redis-server >/dev/null; }

has_postgres() {
  command -v initdb >/dev/null && command -v postgres >/dev/null && return
  local dir
  for dir in /usr/lib/postgresql/*/bin /usr/local/opt/postgresql*/bin /opt/homebrew/opt/postgresql*/bin; do
    [[ -x $dir/initdb && -x $dir/postgres ]] && return
  done
  return 1
}

missing() {
  has_redis || echo redis-server
  has_postgres || echo postgresql
}

apt() {
  DEBIAN_FRONTEND=noninteractive timeout --kill-after=10 "$limit" \
    apt-get -qq -y -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# install_quietly shows what apt-get said only when it failed.
install_quietly() {
  local said
  said=$(mktemp)
  if apt install --no-install-recommends "$@" >"$said" 2>&1; then
    rm -f "$said"
    return 0
  fi
  # The package lists are missing or old on a fresh machine or image.
  if apt update >"$said" 2>&1 && apt install --no-install-recommends "$@" >>"$said" 2>&1; then
    rm -f "$said"
    return 0
  fi
  tail -n 20 "$said" >&2
  rm -f "$said"
  return 1
}

restore_policy() {
  rm -f "$policy"
  if [[ -e $policy.crucible-saved ]]; then
    mv "$policy.crucible-saved" "$policy"
  fi
}

forbid_service_start() {
  # Two installs at once would restore each other's file.
  exec 9>/run/lock/crucible-install-services
  flock --wait "$limit" 9
  # Left behind by a run that was killed: what was saved then is the true one.
  if [[ ! -e $policy.crucible-saved && -e $policy ]]; then
    mv "$policy" "$policy.crucible-saved"
  fi
  trap restore_policy EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\n# Written by install-services.sh while it installs: no service is started.\nexit 101\n' >"$policy"
  chmod 755 "$policy"
}

wanted=$(missing)
if [[ -z $wanted ]]; then
  exit 0
fi

if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
  echo "installing for the tests: ${wanted//$'\n'/ }"
  forbid_service_start
  # shellcheck disable=SC2086 # one word per package
  install_quietly $wanted || true
  wanted=$(missing)
  if [[ -z $wanted ]]; then
    exit 0
  fi
fi

{
  echo "missing: ${wanted//$'\n'/ }"
  echo "  Debian, Ubuntu: sudo apt-get install ${wanted//$'\n'/ }"
  echo "  macOS:          brew install redis postgresql"
  echo "Tests that need them skip; with REQUIRE_SERVICES=1 they fail."
} >&2
[[ ${REQUIRE_SERVICES:-} != 1 ]]
