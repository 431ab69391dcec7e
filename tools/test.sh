#!/usr/bin/env bash
# All tests. The binaries are built first, with the tests' features: integration tests start them as child processes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
: "${LONGWATCH_NATS_SERVER:=$TOOLS/bin/nats-server}"
export LONGWATCH_NATS_SERVER

section "build"
cargo build --workspace --bins --tests
section "test"
cargo test --workspace --no-fail-fast
section "done: all tests passed"
