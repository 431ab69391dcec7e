# Shared by the scripts here and by .ci/run: where things are, how to speak, how to fail. Source it, do not run it.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=$ROOT/.tools
export ROOT TOOLS

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
  BOLD=$'\e[1m' RED=$'\e[31m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
  BOLD='' RED='' YELLOW='' PLAIN=''
fi

say() { printf '%s\n' "$*" >&2; }

# section TITLE: a heading with the seconds since the script started.
section() { printf '\n%s== %s%s  (%ds)\n' "$BOLD" "$*" "$PLAIN" "$SECONDS" >&2; }

# warn LINE…: what a reader of a long log must not miss.
warn() { printf '%s!! %s%s\n' "$YELLOW" "$*" "$PLAIN" >&2; }

# die WHAT NEXT: what went wrong, and what to do about it.
die() {
  printf '%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
  [ $# -lt 2 ] || printf '  next: %s\n' "$2" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# quietly COMMAND…: output only when it fails.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 || status=$?
  [ "$status" -eq 0 ] || tail -n 30 "$log" >&2
  rm -f "$log"
  return "$status"
}
