#!/usr/bin/env bash
# All lints, quickest first. Warnings are errors.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

section "tools"
tools/install.sh rust-lints cargo-machete cargo-deny

section "formatting"
cargo fmt --all --check || die "some files are not formatted" "cargo fmt --all"

section "unused dependencies"
"$TOOLS/bin/cargo-machete" --skip-target-dir --with-metadata

section "licences, bans, sources"
"$TOOLS/bin/cargo-deny" --all-features check licenses bans sources

section "advisories"
if GIT_TERMINAL_PROMPT=0 timeout 120 "$TOOLS/bin/cargo-deny" fetch db; then
  "$TOOLS/bin/cargo-deny" --all-features check --disable-fetch advisories
else
  warn "ADVISORIES WERE NOT CHECKED: the RustSec database could not be fetched (see above)."
  warn "Everything else below and above is checked. Repeat 'make check' where github.com can be reached."
  advisories_missing=1
fi

section "clippy"
cargo clippy --workspace --all-targets -- -D warnings

section "docs"
# Private items are documented for whoever works here, so links to them are good links.
RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --workspace --no-deps --document-private-items

if [ -n "${advisories_missing:-}" ]; then
  section "done: all is clean, but ADVISORIES WERE NOT CHECKED"
else
  section "done: all is clean"
fi
