# The commands for people and for CI: CI runs nothing that could not be run here.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Expanded where it is used: a newer server on PATH, or the pinned one, obtained once.
NATS = NATS_SERVER="$$(scripts/nats-server)"; export NATS_SERVER

.PHONY: help dev demo demo-web test test-rust test-python test-web test-page chaos package \
	bench bench-scale deb test-deb fmt fmt-check lint doc alerts deny advisories ci

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

dev: ## start NATS and a daemon, and print presence changes; options: make dev ARGS="--port 0"
	@$(NATS); cargo run --quiet --bin presenced -- dev $(ARGS)

demo: ## start NATS and two daemons, and play a story through them
	@$(NATS); cargo build --quiet --bins; cargo run --quiet --example demo

demo-web: ## start NATS, daemons, the login, and a page with lively users; prints its address
	@scripts/demo-web

test: ## the whole suite, against a real nats-server
	@$(NATS); echo "testing against $$NATS_SERVER ($$("$$NATS_SERVER" --version))"; \
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run $(NEXTEST); \
	else cargo test --lib --bins --tests --examples; fi; \
	cargo test --doc --quiet

test-web: ## the TypeScript client and its page: types, packaging, tests over TCP and in Chromium
	@scripts/test-web

# With the schemas of the wire types, so that their test runs.
CLIENTS = -p presenced-client -p presencectl -p presence-gateway -p presence-login \
	--features presenced-client/schema

test-rust: ## the Rust client, presencectl, the gateway and the login, against real servers
	@$(NATS); cargo build --quiet --bin presenced; \
	export PRESENCED="$${CARGO_TARGET_DIR:-$$PWD/target}/debug/presenced"; \
	if cargo nextest --version >/dev/null 2>&1; \
	then cargo nextest run $(NEXTEST) $(CLIENTS); \
	else cargo test $(CLIENTS); fi; \
	cargo test --doc --quiet -p presenced-client

test-page: ## the page of presencectl in Chromium
	@scripts/test-page

test-python: ## the Python client: ruff, mypy, tests against real servers, packages
	@scripts/test-python

chaos: ## faults on a real cluster, for some minutes: who is there stays, who is gone goes in time
	@$(NATS); CHAOS_RUN=long cargo test --test chaos -- --nocapture

bench: ## each operation beside its raw counterpart on NATS: a table, target/bench.json, the plots
	@$(NATS); cargo bench --quiet --bench presence -- operations --json "$$PWD/target/bench.json" \
		--plots "$$PWD/docs/performance" $(ARGS)

bench-scale: ## a million users on one machine; USERS=10000000 for more
	@$(NATS); cargo bench --quiet --bench presence -- scale $(ARGS)

# The tests have fetched what the crate depends on.
package: ## pack the Rust client as it would be published, and build what was packed
	cargo package --quiet --locked --offline -p presenced-client

deb: ## build the Debian packages, into target/deb
	scripts/deb

test-deb: ## install the packages in a clean machine with systemd, and live with it (as root)
	@$(NATS); tests/package/run

fmt: ## format the source
	cargo fmt --all

fmt-check: ## refuse source that is not formatted
	cargo fmt --all --check

lint: ## clippy, with warnings denied
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p presenced-client --all-targets --features schema -- -D warnings

doc: ## build the documentation, with warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

alerts: ## test the alert rules with promtool (Debian: prometheus; CI as root installs it)
	@scripts/test-alerts

deny: ## licences, sources and bans of the dependencies
	scripts/deny

advisories: ## known vulnerabilities of the dependencies, from the advisory database (weekly)
	scripts/deny advisories

# Tests of real processes with bounds in time are tried once more there, and are shown as FLAKY.
ci: NEXTEST = --profile ci
ci: ## all that CI checks
ci: fmt-check lint doc alerts deny test test-rust package test-python test-web test-page test-deb
