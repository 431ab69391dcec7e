#!/usr/bin/env bash
# All lints, quickest first. Warnings are errors. One failure does not hide the others: what failed stands at the end.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

failed=()
unchecked=''

# step TITLE COMMAND…
step() {
  local title=$1
  shift
  section "$title"
  "$@" || failed+=("$title")
}

advisories() {
  if GIT_TERMINAL_PROMPT=0 timeout 120 "$TOOLS/bin/cargo-deny" fetch db; then
    "$TOOLS/bin/cargo-deny" --all-features check --disable-fetch advisories
  else
    warn "ADVISORIES WERE NOT CHECKED: the RustSec database could not be fetched (see above)."
    warn "Repeat 'make check' where github.com can be reached."
    unchecked=', but ADVISORIES WERE NOT CHECKED'
  fi
}

docs() {
  # Private items are documented for whoever works here, so links to them are good links.
  RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' \
    cargo doc --workspace --no-deps --document-private-items
}

section "tools"
tools/install.sh rust-lints cargo-machete cargo-deny

step "formatting (cargo fmt --all mends it)" cargo fmt --all --check
step "unused dependencies" "$TOOLS/bin/cargo-machete" --skip-target-dir --with-metadata
step "licences, bans, sources" "$TOOLS/bin/cargo-deny" --all-features check licenses bans sources
step "advisories" advisories
step "clippy" cargo clippy --workspace --all-targets -- -D warnings
step "docs" docs

if [ ${#failed[@]} -gt 0 ]; then
  section "not clean$unchecked"
  for title in "${failed[@]}"; do say "  failed: $title"; done
  exit 1
fi
section "done: all is clean$unchecked"
