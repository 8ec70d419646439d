# Portcullis: `make run` serves on loopback, `make test` proves it. `make help` lists the rest.

SHELL := /bin/bash
CARGO ?= cargo
# The black-box tests mostly wait for timers, so more of them than cores run side by side.
export RUST_TEST_THREADS ?= 8

# What building needs, what the printed lines are run with, and what the tests drive the gateway with (Debian's names).
BUILD_PACKAGES := build-essential pkg-config libssl-dev ca-certificates
RUN_PACKAGES := libcoap3-bin
PEER_PACKAGES := default-jdk-headless maven
OPS_PACKAGES := mmdebstrap binutils jq curl python3 libcoap3-bin mosquitto mosquitto-clients
IMAGE_PACKAGES := umoci runc
CROSS_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
BENCH_PACKAGES := valgrind jq util-linux
TEST_PACKAGES := $(RUN_PACKAGES) gnutls-bin openssl prometheus mosquitto mosquitto-clients nats-server \
	systemd curl jq procps iproute2 python3-venv python3-dev autoconf automake nodejs npm libwolfssl-dev libmbedtls-dev \
	postgresql redis-server redis-sentinel mariadb-server slapd ldap-utils

.DEFAULT_GOAL := help
.PHONY: help run build test test-browser test-vendored check fmt lint doc packages-build packages-run packages-test clients \
	packages-peers test-peers deb test-deb dist dist-arm64 cyclonedx image test-image test-restart test-systemd reproducible deny sbom bench instructions \
	soak nightly packages-ops compare-openssl test-openssl test-fresh fuzz sim

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: packages-run build ## Build and serve the quick start on loopback, with working coap-client lines
	@exec $(or $(CARGO_TARGET_DIR),target)/release/portcullis run

build: packages-build ## Build the release binary
	$(CARGO) build --release --locked

test: packages-test clients ## Run every test: unit, end to end, hostile, interoperability
	@tests/support/suite.sh

test-browser: packages-build ## Try the dashboard in headless Chromium; pictures in target/browser/
	@tests/support/packages.sh chromium nodejs npm
	npm ci --no-audit --no-fund --prefix tests/browser
	$(CARGO) test --locked --test browser -- --ignored

test-peers: packages-test packages-peers ## Run other people's clients against the gateway, those from Maven too, and write docs/interop.md
	tests/interop/peers.sh
	UPDATE_DOCS=1 $(CARGO) test --locked --test interop -- --include-ignored
	$(CARGO) test --locked --test backends mongodb -- --ignored --skip a_second

test-vendored: packages-test clients ## Run the DTLS tests against the OpenSSL 3 that `--features vendored` builds in
	CARGO_TARGET_DIR=target/vendored $(CARGO) test --locked --features vendored --test dtls --test dtls_failures --test interop

compare-openssl: packages-test ## Compare our records with those of other patch levels of OpenSSL
	tests/ops/openssl.sh compare

test-openssl: packages-test packages-ops clients ## Run the DTLS tests on every OpenSSL that is to be had (as root)
	tests/ops/openssl.sh all $(BUILD_PACKAGES) $(TEST_PACKAGES)

test-fresh: packages-ops ## Run make run and make test in minimal Debian trees, from a clean clone (as root)
	tests/ops/fresh.sh bookworm trixie

bench: packages-build ## Measure beside bare echoes and libcoap on a quiet machine, and write docs/performance.md
	@tests/support/packages.sh $(RUN_PACKAGES) $(BENCH_PACKAGES)
	UPDATE_DOCS=1 $(CARGO) bench --locked --bench beside
	$(CARGO) bench --locked --bench dtls_records

instructions: packages-build ## Count the instructions of fixed traces of packets, and compare with those of before
	@tests/support/packages.sh $(BENCH_PACKAGES)
	tests/ops/instructions.sh

MINUTES ?= 10
soak: packages-test build ## Churn, storms, reloads, broker restarts and kills for MINUTES (10); memory and messages are counted
	tests/ops/soak.sh target/release/portcullis $(MINUTES)

SEEDS ?= 10000
sim: packages-build ## Run the core against a hostile network on a virtual clock, SEEDS (10000) times
	PORTCULLIS_SEEDS=$(SEEDS) $(CARGO) test --locked --test sim -- --nocapture

FUZZ_SECONDS ?= 60
fuzz: packages-build ## Run each fuzz target for FUZZ_SECONDS (60), on a nightly compiler
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	@set -e; for target in $$($(CARGO) fuzz list); do \
		mkdir -p fuzz/corpus/$$target; \
		$(CARGO) +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_len=4096 -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1; \
	done

nightly: ## Run what takes too long for every change: other OpenSSLs, clients from Maven, the same bytes twice, soak, fuzzing
	$(MAKE) test-vendored
	$(MAKE) reproducible
	$(MAKE) test-peers
	$(MAKE) sim
	$(MAKE) soak
	$(MAKE) fuzz FUZZ_SECONDS=60

check: fmt lint doc ## Formatting, lints and documentation, warnings being errors

fmt: ## Check the formatting
	$(CARGO) fmt --check

lint: packages-build ## Run clippy on everything
	$(CARGO) clippy --workspace --locked --all-targets -- -D warnings
	$(CARGO) clippy -p portcullis-auth --no-default-features --locked --all-targets -- -D warnings

doc: packages-build ## Build the documentation
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --locked --no-deps

clients: packages-test ## Build the CoAP clients that no package has (under target/)
	@tests/interop/clients.sh

packages-build: ## Install what building needs, where apt is there
	@tests/support/packages.sh $(BUILD_PACKAGES)

packages-run: ## Install what building and the quick start need, where apt is there
	@tests/support/packages.sh $(BUILD_PACKAGES) $(RUN_PACKAGES)

packages-test: ## Install what the tests need, where apt is there
	@tests/support/packages.sh $(BUILD_PACKAGES) $(TEST_PACKAGES)

packages-peers:
	@tests/support/packages.sh $(PEER_PACKAGES)

packages-ops: packages-build
	@tests/support/packages.sh $(OPS_PACKAGES)

deb: packages-build ## Build the Debian package (target/package/debian)
	@command -v cargo-deb >/dev/null || $(CARGO) install --locked cargo-deb
	tests/ops/build.sh

dist: deb cyclonedx ## Put together what is released: tarball, Debian package, bill of materials, checksums (target/dist)
	tests/ops/dist.sh

dist-arm64: packages-ops cyclonedx ## The same for arm64, cross-built on another machine
	@tests/support/packages.sh $(CROSS_PACKAGES)
	@command -v cargo-deb >/dev/null || $(CARGO) install --locked cargo-deb
	ARCH=arm64 tests/ops/build.sh
	ARCH=arm64 tests/ops/dist.sh

# The commit whose package is upgraded from.
FORMER := ec96622
test-deb: packages-ops deb ## Install, upgrade and purge the package in a clean Debian tree (as root)
	tests/ops/deb.sh target/package/debian/*.deb "$$(tests/ops/former.sh $(FORMER))"

image: packages-ops deb ## Make an OCI image without a daemon (target/image; as root)
	deploy/image.sh target/package/release/portcullis

test-image: image ## Run the image as deploy/ does, and check the manifests there (as root)
	@tests/support/packages.sh $(IMAGE_PACKAGES)
	tests/ops/image.sh target/image/oci
	tests/ops/manifests.sh target/package/release/portcullis

test-restart: packages-test ## Kill the gateway 20 times under a fleet (PORTCULLIS_FLEET DTLS sessions, PORTCULLIS_KILLS), take its power, and count what it cost
	$(CARGO) test --locked --release --test mqtt fleet -- --ignored --nocapture --test-threads=1

test-systemd: packages-ops deb ## Run the unit under a booted systemd: start, reload, watchdog, restart, stop (as root)
	tests/ops/systemd.sh target/package/release/portcullis

reproducible: packages-ops cyclonedx ## Build the commit twice, in two places, and compare the bytes of all that is released
	@command -v cargo-deb >/dev/null || $(CARGO) install --locked cargo-deb
	tests/ops/reproducible.sh

deny: ## Check licences, bans and sources of all dependencies, and advisories where their database can be had
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources
	@if $(CARGO) deny --locked fetch db; then $(CARGO) deny --locked --offline check advisories; \
		else echo "advisories are not checked: their database cannot be had from here"; fi

sbom: cyclonedx ## Write the software bill of materials (target/sbom)
	tests/ops/sbom.sh

cyclonedx:
	@command -v cargo-cyclonedx >/dev/null || $(CARGO) install --locked cargo-cyclonedx
