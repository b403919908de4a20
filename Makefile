# Lintel. `make help` lists the targets.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Without the gRPC transport of the client of Google Cloud Storage, which checkpoints don't use: it is a quarter of a binary.
TAGS    := disable_grpc_modules
CACHE   := $(CURDIR)/.cache
GOLANGCI_VERSION := v2.15.0

# What to run of the suites below, and more options for them. A $ in them is only that:
# make CLASSES='ParDoTest$BasicTests' conformance-java
SUITES ?= portable
CLASSES ?=
PACKAGES ?= .
SET ?= bounded
SEEDS ?= 1-20
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## the binary: bin/lintel
	CGO_ENABLED=0 go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/lintel ./cmd/lintel

.PHONY: demo
demo: build ## count the words of real text with the Go SDK, then with Python (DEMO_DIR=, DEMO_PY_DIR=)
	@scripts/demo.sh

# The profile of cmd/lintel makes builds slow and changes nothing that tests look at.
test test-docker test-race lint faults-short faults: export GOFLAGS += -pgo=off

.PHONY: test
test: test-setup ## all quick tests, the examples end to end included
	go vet ./...
	go vet -C examples/go ./...
	go run ./scripts/gotest -C examples/go ./...
	go run ./scripts/gotest -timeout 20m ./...

.PHONY: test-setup
test-setup: ## what the tests need beside Go: Python's Beam SDK in .cache/venv, if there is a Python
	@if command -v python3 >/dev/null; then scripts/venv.sh beam >/dev/null; \
	else echo 'no python3: the tests of Python pipelines will be skipped'; fi
	@command -v dockerd >/dev/null || echo 'no dockerd: the tests of containers will be skipped (make setup-docker)'

.PHONY: setup-docker
setup-docker: ## install the Docker engine that tests start (Debian's docker.io; as root)
	@command -v dockerd >/dev/null || { apt-get update -q; \
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends docker.io; }

.PHONY: test-docker
test-docker: test-setup ## pipelines in containers, with an image of Python made from .cache/venv
	go vet -tags pythonimage ./integration/e2e
	go run ./scripts/gotest -tags pythonimage -run Docker ./integration/e2e

.PHONY: faults-short
faults-short: ## little memory, full disks, many jobs, killed servers, bad clients: five minutes of it (part of make test)
	@go run ./scripts/gotest -run Kill ./integration/faults & kills=$$!; failed=0; \
	go run ./scripts/gotest -skip Kill ./integration/faults || failed=1; \
	wait $$kills || failed=1; exit $$failed

.PHONY: faults
faults: test-setup setup-java ## the same at full size, and in Python and Java: two hours, 8 GiB of disk (ARGS="-run Memory")
	go test -timeout 3h -v $(ARGS) ./integration/faults -long
	go test -timeout 1h -v -run CrashWhileImages ./statebackend/pebblestate -crashes 2000

FUZZTIME ?= 5s
.PHONY: fuzz-short
fuzz-short: ## each fuzz target for FUZZTIME (5s)
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: test-race
test-race: ## the tests of our packages under the race detector (needs a C compiler)
	CGO_ENABLED=1 go run ./scripts/gotest -race -timeout 20m $$(go list ./... | grep -v /integration/)

.PHONY: gen
gen: ## golden pipelines and plans of portable/testdata, depguard's rules in .golangci.yml
	cd portable/testdata/gen/go && go run . $(CURDIR)/portable/testdata/pipelines
	$$(scripts/venv.sh beam) portable/testdata/gen/python/main.py portable/testdata/pipelines
	go test ./portable -run TestGoldenPlans -update
	go test ./internal/lint -run TestGolangci -update

.PHONY: keep-checkpoints
keep-checkpoints: ## checkpoints and savepoints of this build, which all later ones are to restore: with each new version of a format (VERSION=v2)
	go test ./runner/worker -run '^TestKeptCheckpoints$$' -keep '$(VERSION)'
	go test ./integration/faults -run '^TestKeptSavepoints$$' -keep '$(VERSION)'

.PHONY: fmt
fmt: ## format all Go code
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')

.PHONY: lint
lint: $(CACHE)/bin/golangci-lint-$(GOLANGCI_VERSION) ## formatting, vet and golangci-lint
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$bad" ]; then echo "not formatted (make fmt): $$bad"; exit 1; fi
	go vet ./...
	$< run --allow-parallel-runners ./...

$(CACHE)/bin/golangci-lint-$(GOLANGCI_VERSION):
	GOBIN=$(CACHE)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(CACHE)/bin/golangci-lint $@

REPEAT ?= 1
.PHONY: conformance
conformance: build setup-java setup-node ## all the suites below in turn, each REPEAT times: an hour (ARGS="java-batch ts")
	scripts/conformance.sh --repeat $(REPEAT) $(value ARGS)

.PHONY: conformance-python
conformance-python: build ## Beam's own Python tests (SUITES="portable process", ARGS=)
	integration/python/run.sh --suites '$(SUITES)' $(value ARGS)

.PHONY: conformance-go
conformance-go: build ## Beam's own Go tests (PACKAGES=regexp, ARGS=)
	integration/go/run.sh --packages '$(value PACKAGES)' $(value ARGS)

.PHONY: conformance-java
conformance-java: build setup-java ## Beam's own Java tests (CLASSES='ViewTest,ParDoTest$BasicTests', ARGS=)
	integration/java/run.sh $(if $(value CLASSES),--tests '$(value CLASSES)') $(value ARGS)

.PHONY: setup-java
setup-java: ## install Maven and a JDK, if there are none (Debian's; as root)
	@command -v mvn >/dev/null && command -v javac >/dev/null || { apt-get update -q; \
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends maven default-jdk-headless; }

.PHONY: conformance-ts
conformance-ts: build setup-node ## Beam's own TypeScript tests (ARGS=)
	integration/ts/run.sh $(value ARGS)

.PHONY: setup-node
setup-node: ## install Node.js with npm, if there is none (Debian's; as root)
	@command -v npm >/dev/null || { apt-get update -q; \
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends nodejs npm; }

.PHONY: xlang
xlang: build setup-java ## pipelines of several SDKs, SQL, Kafka, YAML (ARGS=--quick)
	integration/xlang/run.sh $(value ARGS)

.PHONY: differential
differential: build ## random pipelines on Lintel and on Beam's FnApiRunner (SEEDS=1-20)
	integration/differential/run.sh --seeds '$(SEEDS)' $(value ARGS)

.PHONY: bench
bench: build ## throughput beside Prism (SET=bounded|smoke|medium, ARGS=)
	integration/bench/run.sh --set '$(SET)' $(value ARGS)

.PHONY: bench-checkpoints
bench-checkpoints: build ## what a checkpoint every second costs, beside none (ARGS=)
	integration/bench/run.sh --rival none --set checkpoints --variant none=--checkpoint_interval=0 --variant every-second=--checkpoint_interval=1s $(value ARGS)

BASE ?= HEAD~1
.PHONY: bench-check
bench-check: ## five minutes: fails if the server takes 15 % more processor time than that of BASE (HEAD~1; ARGS=)
	integration/bench/check.sh '$(BASE)' $(value ARGS)

.PHONY: pgo
pgo: build ## the profile of profile-guided builds, from the bench's cases: cmd/lintel/default.pgo
	integration/bench/pgo.sh '$(CURDIR)/cmd/lintel/default.pgo'

KEYS ?= 10000000
.PHONY: bench-state
bench-state: ## the runner's part of keeping state and timers of many keys (KEYS=)
	GOMEMLIMIT=900MiB go test ./runner/worker -run '^$$' -bench '^BenchmarkKeys$$/^auto$$' -benchtime $(KEYS)x -timeout 4h

STATE_MB ?= 1024
.PHONY: bench-images
bench-images: ## images of a store on disk: how long its owner waits, what is uploaded (STATE_MB=)
	go test ./statebackend/pebblestate -run '^$$' -bench '^BenchmarkImage$$' -benchtime 20x -timeout 1h -image-bytes $$(($(STATE_MB) << 20))

.PHONY: clean
clean: ## remove what the targets made, the cache included
	rm -rf bin .cache
