# Everything a person does with this checkout. `make help` lists it.
#
# What is needed: cargo, python3 (3.10 or later) with pip, make, and a C++ compiler for what uses torch in Rust. All else
# is installed by these targets, with pinned versions, into ignored folders of the checkout: Python packages into .venv,
# everything built into target.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
LOCK := tests/python/requirements.lock
STAMP := .venv/.installed
KUBECTL := .cache/kubectl/usr/bin/kubectl
KUBE_LOCK := tests/kube/requirements.lock
KUBE_STAMP := .cache/kube-client/.installed
RAYCONCILE := target/debug/rayconcile
# What builds and runs a program in Rust that uses torch, that of .venv: it is found without being imported.
TORCH_LIB = $(shell .venv/bin/python -c 'from importlib.util import find_spec; print(find_spec("torch").submodule_search_locations[0])')/lib
TORCH = PATH="$(CURDIR)/.venv/bin:$$PATH" LIBTORCH_USE_PYTORCH=1 LD_LIBRARY_PATH="$(TORCH_LIB)"

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build python ## Run a real elastic job on a local Ray cluster, from one worker to two, to success
	$(RAYCONCILE) --state-dir .cache/demo run manifests/quickstart.yaml

.PHONY: demo-ec2
demo-ec2: build python ## The same on EC2, from nothing over a spot interruption to nothing, in a region on this machine (ENCLOSED=1)
	PYTHONPATH=tests/python .venv/bin/python -B -m ec2.demo $(RAYCONCILE) .cache $(if $(ENCLOSED),enclosed)

.PHONY: demo-rust
demo-rust: build programs ## Run an elastic job whose program is in Rust, likewise on a local Ray cluster
	$(RAYCONCILE) --state-dir .cache/demo-rust run manifests/digits-rust.yaml

.PHONY: programs
programs: python cxx ## Build the examples in Rust, optimised, into target/demo-rust
	$(TORCH) cargo build --release --no-default-features --features tch --example digits_tch --example transformer_tch
	mkdir -p target/demo-rust
	for name in digits_tch transformer_tch; do strip -o target/demo-rust/$$name target/release/examples/$$name; done

# Before all else: what is built last is the program that needs no torch.
.PHONY: test
test: train kubectl kube-client ## Run all tests, with real Ray, torch, AdaptDL and kubectl
	cargo test --lib --bins --test it --test kube --test live -- --test-threads=2

.PHONY: train
train: python cxx ## Build and test elastic training in Rust, on the torch of .venv
	$(TORCH) cargo build --no-default-features --features tch --example digits_tch
	$(TORCH) cargo test --no-default-features --features tch --lib train:: -- --test-threads=2
	$(TORCH) cargo test --no-default-features --features tch --test train -- --test-threads=2

.PHONY: cxx
cxx:
	@command -v c++ >/dev/null || { echo "what uses torch in Rust needs a C++ compiler: on Debian, apt-get install g++" >&2; exit 1; }

.PHONY: check
check: ## The quick loop: does it compile, and do the tests pass that need no Ray
	cargo clippy --all-targets -- -D warnings
	cargo test --lib --test it

.PHONY: bench-rescale
bench-rescale: programs ## Measure how long a job stands still when it is rescaled (MODELS=, VARIANTS=, REPETITIONS=)
	cargo bench --profile dev --bench rescale

.PHONY: bench-recovery
bench-recovery: python ## Measure how soon a job goes on after a failure (EVENTS=, REPETITIONS=)
	cargo bench --profile dev --bench recovery

.PHONY: bench-plan
bench-plan: ## Measure how long a plan takes for a cluster of 5,000 nodes (NODES=, REPETITIONS=)
	cargo bench --no-default-features --bench plan

.PHONY: bench-calls
bench-calls: python ## Count how often EC2 is asked for a steady cluster of 1,000 nodes, in a region on this machine (NODES=)
	cargo bench --profile dev --bench calls

.PHONY: bench-controller
bench-controller: ## Measure a controller with 2,000 manifests in a directory, in an optimised build (MANIFESTS=, CLUSTERS=)
	cargo bench --no-default-features --bench controller

.PHONY: bench-train
bench-train: programs ## Measure a transformer in Rust beside an equal PyTorch script (WORKERS=, REPETITIONS=, WINDOWS=)
	$(TORCH) cargo bench --profile dev --no-default-features --features tch --bench train

.PHONY: chaos
chaos: python ## Throw random faults at two jobs, and see that nothing is lost (SEED=, MINUTES=, FAULTS=)
	cargo bench --profile dev --bench chaos

.PHONY: lint
lint: ## Formatting and lints, as CI wants them
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

.PHONY: lint-train
lint-train: python cxx ## Lints of what needs torch
	$(TORCH) cargo clippy --no-default-features --features tch --all-targets -- -D warnings

.PHONY: schemas
schemas: build ## Write the JSON Schemas anew
	$(RAYCONCILE) schema --write schemas

.PHONY: man
man: build ## Write the manual pages into target/man
	$(RAYCONCILE) man --write target/man

.PHONY: build
build: ## Build the program
	cargo build

.PHONY: python
python: $(STAMP) ## Install Ray, torch and AdaptDL into .venv

$(STAMP): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "python3 3.10 or later is needed; set PYTHON" >&2; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	touch $(STAMP)

.PHONY: kubectl
kubectl: $(KUBECTL) ## Fetch the kubectl that tests run: 1.20, Debian's, into .cache/kubectl

$(KUBECTL):
	@command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { \
	    echo "kubectl is fetched with apt-get and dpkg-deb, of Debian 12; elsewhere, put a kubectl 1.20 at $@" >&2; exit 1; }
	rm -rf .cache/kubectl && mkdir -p .cache/kubectl
	cd .cache/kubectl && { apt-get download -qq kubernetes-client || { apt-get update -qq && apt-get download -qq kubernetes-client; }; } || { \
	    echo "apt has no kubernetes-client to download; put a kubectl 1.20 at $@" >&2; exit 1; }
	dpkg-deb -x .cache/kubectl/kubernetes-client_*.deb .cache/kubectl
	@$@ version --client | grep -q 'v1\.20\.' || echo "$@ is no kubectl 1.20, with which the tests are known to pass" >&2

.PHONY: kube-client
kube-client: $(KUBE_STAMP) ## Install the client of Kubernetes that tests run, into .cache/kube-client

$(KUBE_STAMP): $(KUBE_LOCK)
	test -x .cache/kube-client/bin/python || $(PYTHON) -m venv .cache/kube-client
	.cache/kube-client/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(KUBE_LOCK)
	touch $(KUBE_STAMP)

.PHONY: docs-kubectl
docs-kubectl: build kubectl ## Write the transcript in docs/kubectl.md anew
	RAYCONCILE_ACCEPT=1 cargo test --test kube transcript

.PHONY: clean
clean: ## Remove everything that was built or installed
	rm -rf target .venv .cache out
