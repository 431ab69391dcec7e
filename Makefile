# Longwatch: one command each, on a machine with Rust, Python 3 with pip, and apt. `make help` lists them.
# What is missing (nats-server, ffmpeg, …) is installed by tools/install.sh; nothing is installed twice.

CAMERAS ?= 4
DATA    ?= ./data
LISTEN  ?= 127.0.0.1:8080
SEEDS   ?= 50000
FROM    ?= 0
# The dev build is what a first `make run` waits for: no LTO, dependencies at opt-level 1, ready in half the time,
# and `make test` uses the same artifacts. For figures that count: PROFILE=release.
PROFILE ?= dev

TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
BIN        := $(TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

export LONGWATCH_NATS_SERVER := $(abspath .tools/bin/nats-server)

.DEFAULT_GOAL := help
.PHONY: help run test check bench simulate tools
.NOTPARALLEL:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

run: tools ## build, start Single and CAMERAS=4 simulated cameras; DATA=./data LISTEN=127.0.0.1:8080
	@cargo build --profile $(PROFILE) --workspace --bins
	@exec "$(BIN)/longwatch-loadtest" demo --cameras "$(CAMERAS)" --data "$(DATA)" --listen "$(LISTEN)"

test: tools ## unit, property and integration tests against real processes
	@tools/install.sh ffmpeg postgres
	@tools/test.sh

check: tools ## formatting, lints, docs, licences, bans, advisories, unused dependencies
	@tools/check.sh

bench: tools ## build for release and print the benchmark report
	@tools/install.sh ffmpeg
	@cargo build --release --workspace --bins
	@status=0; for part in record failover scale; do "$(TARGET_DIR)/release/longwatch-loadtest" $$part || status=1; done; exit $$status

simulate: tools ## run SEEDS=50000 seeds of the simulation, from FROM=0 on
	@cargo build --release -p longwatch-loadtest --bins
	@"$(TARGET_DIR)/release/longwatch-loadtest" simulate --seeds "$(SEEDS)" --from "$(FROM)"

tools: # what a build and a run need: a Rust toolchain, a C compiler, nats-server
	@tools/install.sh rust cc nats-server
