# Every way to build, check and run Crucible. `make` alone explains the targets.
# CI (.ci/run and .github/workflows) calls the same ones.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO      ?= go
ROOT    := $(CURDIR)
# The modules of the workspace, as go.work lists them; tools/ is not one of them.
MODULES := $(shell sed -n 's|^[[:space:]]*\./||p' go.work)
TOOLS   := $(ROOT)/bin/tools
# All packages of all modules: the workspace lets one call of go reach them.
ALL     := $(MODULES:%=./%/...)

# The sandbox exists on Linux only, and so do its init and what its tests at level gvisor need.
LINUX    := $(filter linux,$(shell $(GO) env GOOS))
PROGRAMS := ./cmd/crucible $(if $(LINUX),./executor/cmd/sandbox-init)
RUNSC    := $(if $(LINUX),$(TOOLS)/runsc)

# What a target passes on, as in `make run ARGS="--listen 127.0.0.1:9000"`, `make test ARGS="-run Cancel"`.
ARGS ?=

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@printf '\nARGS="..." is passed on to the program or to go test.\n'

##@ Use

.PHONY: run
run: build ## Start everything in one process; needs nothing installed
	bin/crucible up $(ARGS)

.PHONY: demo
demo: build ## Run the demonstrations and check their outcomes
	bin/crucible demo $(ARGS)

.PHONY: build
build: ## Build bin/crucible and, on Linux, bin/sandbox-init, both static
	CGO_ENABLED=0 $(GO) build -o bin/ $(PROGRAMS)

##@ Test

.PHONY: test
test: services $(TOOLS)/gotestsum $(RUNSC) ## Run the tests of every module, with the race detector
	$(TOOLS)/gotestsum --format standard-quiet -- -race -shuffle=on -timeout 20m $(ARGS) $(ALL)
	cd tools && GOWORK=off $(GO) test ./...

.PHONY: race
race: services $(TOOLS)/gotestsum $(RUNSC) ## Run them five times over, for what goes wrong rarely (COUNT=5)
	$(TOOLS)/gotestsum --format standard-quiet -- -race -shuffle=on -timeout 60m -count=$(or $(COUNT),5) $(ARGS) $(ALL)

.PHONY: e2e
e2e: services build $(TOOLS)/gotestsum ## Run the end-to-end tests against the built programs
	$(TOOLS)/gotestsum --format standard-quiet -- -race -count=1 -timeout 20m -tags e2e $(ARGS) ./cmd/e2e/...

# The test binary is run by itself, so that its progress is seen, with colours on a terminal.
.PHONY: chaos
chaos: services build ## Kill, freeze, cut and corrupt everything under load; check that nothing is lost
	$(GO) test -c -tags chaos -o bin/chaos.test ./cmd/chaos
	cd cmd/chaos && REQUIRE_SERVICES=1 $(ROOT)/bin/chaos.test -test.timeout 60m -program $(ROOT)/bin/crucible $(ARGS)

.PHONY: chaos-short
chaos-short: ## The same with short leases and few evaluations, for CI
	$(MAKE) --no-print-directory chaos ARGS="-fast -rate 6 -evaluations 300 -faults 29 $(ARGS)"

# Cases by levels are for people: go test would keep them to itself.
.PHONY: abuse
abuse: $(RUNSC) ## Run every hostile program at every isolation level; print the table
	mkdir -p bin
	CRUCIBLE_ABUSE=whole CRUCIBLE_ABUSE_TABLE=$(ROOT)/bin/abuse.txt $(GO) test -count=1 -timeout 40m $(ARGS) ./executor/internal/abuse || { cat bin/abuse.txt; exit 1; }
	cat bin/abuse.txt

.PHONY: bench
bench: build ## Load an embedded platform, or an executor (ARGS=--executor), beside bare processes
	bin/crucible bench $(ARGS)

.PHONY: coverage
coverage: services $(RUNSC) ## Measure test coverage; write coverage/
	GO="$(GO)" scripts/coverage.sh $(ALL)

##@ Check

.PHONY: lint
lint: boundaries $(TOOLS)/staticcheck ## Check format, go vet, go fix and staticcheck
	CGO_ENABLED=0 GO="$(GO)" STATICCHECK=$(TOOLS)/staticcheck scripts/lint.sh $(MODULES)

.PHONY: boundaries
boundaries: ## Check who imports whom
	cd tools && GOWORK=off $(GO) run ./cmd/boundaries ..

.PHONY: modules
modules: ## Check that each module is tidy and builds alone
	CGO_ENABLED=0 GO="$(GO)" scripts/modules.sh check $(MODULES) tools tools/runsc

.PHONY: verify
verify: ## Check that generated files are up to date
	scripts/verify.sh

##@ Change

.PHONY: fmt
fmt: ## Format the code, and modernise it with go fix
	gofmt -w $(MODULES) tools
	for module in $(MODULES); do (cd $$module && $(GO) fix ./...); done

.PHONY: generate
generate: ## Write the generated files anew
	for module in $(MODULES); do (cd $$module && $(GO) generate ./...); done

.PHONY: tidy
tidy: ## Tidy every go.mod, with the same versions in all modules
	GO="$(GO)" scripts/modules.sh tidy $(MODULES) tools tools/runsc

##@ Set up

.PHONY: deps
deps: services ## Get what tests need: modules, tools, and Redis and PostgreSQL where possible
	$(GO) mod download
	$(MAKE) --no-print-directory $(TOOLS)/gotestsum $(TOOLS)/staticcheck $(RUNSC)

.PHONY: runsc
runsc: $(RUNSC) ## Build gVisor's runsc, for the sandbox level gvisor

.PHONY: services
services:
	scripts/install-services.sh

.PHONY: clean
clean: ## Remove what was built and measured
	rm -rf bin coverage

# The pinned tools of tools/go.mod, built once and again when the pins change.
$(TOOLS)/%: tools/go.mod tools/go.sum
	cd tools && GOWORK=off GOBIN=$(TOOLS) $(GO) install $$(GOWORK=off $(GO) list -f '{{.ImportPath}}' tool | grep '/$*$$')
	touch $@

# gVisor, pinned in a module of its own: its dependencies are many, and none of the other tools' business.
$(TOOLS)/runsc: tools/runsc/go.mod tools/runsc/go.sum
	cd tools/runsc && CGO_ENABLED=0 GOWORK=off GOBIN=$(TOOLS) $(GO) install -ldflags='-s -w' gvisor.dev/gvisor/runsc
	touch $@
