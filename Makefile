SHELL := bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
# Tests are compiled with the programs they start; `cargo run` would compile most of it once more, with other features.
TESTED := $(TARGET)/debug
DEVCLUSTER := $(CARGO) run --locked --quiet --package devcluster --
KUBECONFIG_DEV := target/devcluster/kubeconfig
CRD := crds/sidecarsets.yaml

# Tools outlive `target/`, one folder per version.
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sidecarset-tools/cargo-deny-$(CARGO_DENY_VERSION)
CARGO_DENY := $(CARGO_DENY_DIR)/bin/cargo-deny

# What the real node was tested with; a distribution's later fixes of these versions are welcome.
NODE_PACKAGES := iproute2=* containerd=1.6.* runc=1.1.* containernetworking-plugins=1.1.* busybox-static=1:1.35.*

# NODE=real asks for a real node.
WITH_NODE = $(if $(NODE),--node $(NODE))

# $(call part,name,command): runs the command and prints how long it took.
part = @start=$$SECONDS; echo "== $(1)"; { $(2); }; status=$$?; echo "== $(1): $$((SECONDS - start)) s"; exit $$status

.PHONY: help build bench test test-node test-unit lint fmt generate verify verify-generated verify-deny run demo \
        devcluster-up devcluster-down node-packages tools deps

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: deps ## build the operator and the devcluster, optimised
	$(CARGO) build --release --locked --workspace --bins

test: deps ## run every test; the first run builds the devcluster's servers (about 6 minutes)
	$(call part,compile,$(CARGO) test --locked --workspace --no-run)
	$(call part,devcluster binaries,$(TESTED)/devcluster build)
	$(call part,kubelet,$(TESTED)/devcluster build --node real > /dev/null || [ "$$SIDECARSET_REQUIRE_NODE" != 1 ])
	$(call part,test,$(CARGO) test --locked --workspace)

# More tests at once than cores: they mostly wait.
test-node: deps ## run the tests of a real node, which must be able to run here (make node-packages)
	$(call part,compile,$(CARGO) test --locked --workspace --test node --no-run)
	$(call part,devcluster binaries,$(TESTED)/devcluster build --node real)
	$(call part,test,SIDECARSET_REQUIRE_NODE=1 $(CARGO) test --locked --workspace --test node --no-fail-fast -- --test-threads=4)

bench: deps ## cost of the rollout core at 100,000 pods; inject one pod among 5,000 sets; patch 1,000 pods of a cluster
	$(CARGO) bench --locked --bench core
	$(CARGO) bench --locked --bench inject
	$(CARGO) bench --locked --bench rollout

test-unit: ## run the tests that need no cluster
	$(CARGO) test --locked --lib --test architecture

lint: ## run clippy on everything
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt --all

generate: ## write the files that are generated from the code (crds/)
	@mkdir -p $(TARGET)
	$(CARGO) run --locked --quiet --bin sidecarset-operator -- crd > $(TARGET)/sidecarsets.yaml
	@cmp --silent $(TARGET)/sidecarsets.yaml $(CRD) || { cp $(TARGET)/sidecarsets.yaml $(CRD) && echo "wrote $(CRD)"; }

verify: deps ## check formatting, lints, generated files, dependencies, documentation, architecture
	$(call part,format,$(CARGO) fmt --all --check || { echo "fix it with: make fmt"; false; })
	$(call part,clippy,$(MAKE) --no-print-directory lint)
	$(call part,generated files,$(MAKE) --no-print-directory verify-generated)
	$(call part,cargo deny,$(MAKE) --no-print-directory verify-deny)
	$(call part,documentation,RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --quiet --no-deps --workspace --document-private-items)
	$(call part,architecture,$(CARGO) test --locked --quiet --test architecture)

verify-generated:
	@mkdir -p $(TARGET)
	@$(CARGO) run --locked --quiet --bin sidecarset-operator -- crd > $(TARGET)/sidecarsets.yaml
	@diff --unified $(CRD) $(TARGET)/sidecarsets.yaml || { echo "$(CRD) is not what the code says: run make generate and commit the result"; false; }
	@if git rev-parse --git-dir > /dev/null 2>&1; then \
		files=$$(git ls-files --others --exclude-standard -- crds config); \
		[ -z "$$files" ] || { printf 'not in git: %s\nadd it with: git add crds config\n' "$$files"; false; }; \
	fi
	@kubectl kustomize config/default > /dev/null
	@kubectl kustomize config/dry_run_tenants > /dev/null
	@kubectl kustomize config/samples > /dev/null

verify-deny: $(CARGO_DENY)
	@$(CARGO_DENY) --workspace --locked check bans licenses sources

run: build ## run the operator on the cluster of the current KUBECONFIG, from outside; Ctrl-C ends it
	exec $(RELEASE)/sidecarset-operator run --local

demo: deps ## show it all on a fresh devcluster, 2 minutes once built; NODE=real: real containers; KEEP=1: leave it running
	$(CARGO) build --release --locked --workspace --bin devcluster
	$(RELEASE)/devcluster build $(WITH_NODE)
	@$(MAKE) --no-print-directory build
	@BIN=$(RELEASE) NODE=$(NODE) KEEP=$(KEEP) tests/demo/demo.sh

devcluster-up: deps ## start a devcluster that stays, with its kubeconfig in target/devcluster; NODE=real adds a real node
	@$(DEVCLUSTER) up $(WITH_NODE) --kubeconfig $(KUBECONFIG_DEV)

devcluster-down: ## end it
	@$(DEVCLUSTER) down --kubeconfig $(KUBECONFIG_DEV)

node-packages: ## install what a real node needs (Debian 12, as root)
	@installed() { [[ "$$(dpkg-query --show --showformat '$${db:Status-Status}=$${Version}' $$1 2>&1)" == installed=$$2 ]]; }; \
	missing=; set -f; \
	for package in $(NODE_PACKAGES); do installed $${package%%=*} "$${package#*=}" || missing+=" $$package"; done; \
	[ -n "$$missing" ] || exit 0; \
	command -v apt-get > /dev/null || { echo "no apt-get here; devcluster/README.md says what a real node needs"; exit 1; }; \
	echo "installing$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -qq --yes --no-install-recommends $$missing > /dev/null

deps: ## say what is missing on this machine
	@missing=; \
	need() { command -v "$$1" > /dev/null || { echo "missing: $$1 ($$2)"; missing=1; }; }; \
	need cargo "Rust: install rustup, it reads rust-toolchain.toml"; \
	need cc "a C compiler, for the crate ring"; \
	need git "git"; \
	need kubectl "kubectl 1.30 or newer"; \
	[ -n "$$KUBEBUILDER_ASSETS" ] || need go "Go 1.26 or newer, builds the devcluster's servers"; \
	[ -z "$$missing" ]

tools: $(CARGO_DENY) ## install the tools that make verify needs

$(CARGO_DENY):
	@echo "installing cargo-deny $(CARGO_DENY_VERSION) (once, about 4 minutes on two cores)"
	$(CARGO) install --locked --quiet cargo-deny --version $(CARGO_DENY_VERSION) --no-default-features --root $(CARGO_DENY_DIR)
