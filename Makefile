# Targets for people and for CI alike: what is green here is green there. `make help` lists them.
# Nothing but Go is needed; tools are pinned in tools/*/go.mod and built on first use.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --warn-undefined-variables

BUF := go tool -modfile=tools/buf/go.mod buf
LINT := go tool -modfile=tools/lint/go.mod golangci-lint

# The race detector needs a C compiler; without one the tests still run, and say so.
RACE := $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# The parts of make soak; 0 leaves one out. Random faults come for this many minutes; a seed repeats a run, 0 draws one.
SOAK_MINUTES ?= 30
SOAK_SEED ?= 0
# Servers are rolled and killed under 20 callers for this many minutes.
SOAK_ROLL_MINUTES ?= 5
# A service of this size is joined, left and followed.
SOAK_INSTANCES ?= 50000
# Tests that are named after faults, as large as the faults deserve; 1 or 0.
SOAK_ROWS ?= 1
# Where tests of many packages race over the registry, and how often they are repeated.
SOAK_PACKAGES ?= ./framework/discovery ./framework/discovery/etcd/... ./framework/discovery/cache/... ./framework/discovery/discoverytest/... ./framework/grpcresolver/...
SOAK_COUNT ?= 5
# Where make generate writes.
GENERATED := proto third_party templates/gomod framework/stack/settingdocs.go
# What make breaking compares with.
AGAINST ?= main

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do printf '  %-16s %s\n' "$$target" "$$what"; done

.PHONY: dev
dev: ## run the examples with an etcd of their own; one that dies is started again
	@echo "compiling newsvc; with an empty build cache that takes a minute or two"
	go run ./cmd/newsvc dev

.PHONY: build
build: ## compile everything
	go build ./...

# go vet has a target of its own; once more with each test it would take 20 s from empty caches.
.PHONY: test
test: ## all tests in budget: framework with the race detector, the rest as it ships
	$(if $(RACE),,@echo "no C compiler: the race detector is off")
	@began=$$(date +%s); status=0; set -x; \
	go test -vet=off $(RACE) -timeout 20m ./framework/... || status=1; \
	go test -vet=off -timeout 20m $$(go list ./... | grep -v '^github.com/newsvc/newsvc/framework\(/\|$$\)') || status=1; \
	{ set +x; } 2>/dev/null; echo "make test: $$(( $$(date +%s) - began )) s of 720 s"; exit $$status

.PHONY: test-cli
test-cli: ## newsvc on whole projects: create, race test, lint, run, call by name, stop; budget 20 minutes on 2 cores
	@began=$$(date +%s); status=0; \
	NEWSVC_TEST_CLI=1 go test ./cmd/newsvc/clitest ./cmd/newsvc/devtest ./cmd/newsvc/internal/generate -count 1 -v -timeout 60m || status=1; \
	echo "make test-cli: $$(( $$(date +%s) - began )) s of 1200 s"; exit $$status

.PHONY: test-deploy
test-deploy: ## the deployment files of created projects: read by Kubernetes' and BuildKit's parsers, and all that they run is run
	@began=$$(date +%s); status=0; \
	cd tools/deploy && go vet ./... && go test -count 1 -timeout 30m ./... || status=1; \
	echo "make test-deploy: $$(( $$(date +%s) - began )) s of 480 s"; exit $$status

.PHONY: soak
soak: ## what takes long: random faults (SOAK_MINUTES, SOAK_SEED), rolling restarts, 50,000 instances, faults in full size, races
	@if (( $(SOAK_MINUTES) > 0 )); then set -x; \
		go test ./framework/discovery/faulttest/newsvc -run '^TestSoak$$' -count 1 -v -timeout $$(( $(SOAK_MINUTES) + 15 ))m -soak.for $(SOAK_MINUTES)m -soak.seed $(SOAK_SEED); \
	fi
	@if (( $(SOAK_ROLL_MINUTES) > 0 )); then set -x; \
		go test ./framework/discovery/faulttest/newsvc -run 'Roll|Kills' -count 1 -v -timeout $$(( 3 * $(SOAK_ROLL_MINUTES) + 15 ))m -roll.full -roll.for $(SOAK_ROLL_MINUTES)m; \
	fi
	@if (( $(SOAK_INSTANCES) > 0 )); then set -x; \
		cd bench && go run ./scale -n $(SOAK_INSTANCES) -rounds 3 -changes 50 -restart 2000; \
	fi
	@if (( $(SOAK_ROWS) > 0 )); then set -x; \
		go test ./framework/discovery/etcd -run 'Test[AB][0-9][0-9]' -count 1 -timeout 30m -rows.full -registrars 2000 -losses 1000; \
		go test ./framework/grpcresolver -run 'Test[AB][0-9][0-9]' -count 1 -timeout 30m -rows.full; \
	fi
	@if (( $(SOAK_COUNT) > 0 )); then set -x; \
		go test $(RACE) -count $(SOAK_COUNT) -timeout 60m $(SOAK_PACKAGES); \
	fi

.PHONY: bench
bench: ## compare with peers, printed as tables
	cd bench && go run ./scale -n 1000,10000 -rounds 3
	cd bench && go run .

.PHONY: bench-cli
bench-cli: ## what newsvc itself takes: create, generate, --help, and from a save to the new version serving
	cd bench && go run ./cli

.PHONY: faults
faults: ## put newsvc and others under the faults of etcd, networks and processes, and write docs/faults.md
	cd bench && go run ./faults -out ../docs/faults.md

.PHONY: vet
vet: ## go vet
	go vet ./...

.PHONY: lint
lint: ## golangci-lint, see .golangci.yml
	$(LINT) run ./...
	cd tools/gen && go tool -modfile=../lint/go.mod golangci-lint run --config ../../.golangci.yml ./...
	cd tools/deploy && go tool -modfile=../lint/go.mod golangci-lint run --config ../../.golangci.yml ./...
	cd bench && go tool -modfile=../tools/lint/go.mod golangci-lint run --config ../.golangci.yml ./...

.PHONY: arch
arch: ## the house rules of framework/internal/archtest
	go test ./framework/internal/archtest

.PHONY: generate
generate: ## write third_party, all generated Go, the texts of settings and the go.mod of created projects anew
	go run -C tools/gen ./thirdparty -root ../..
	go run -C tools/gen ./settingdocs -root ../..
	$(BUF) generate
	go run ./cmd/newsvc/internal/scaffold/gomod

.PHONY: check-generate
check-generate: generate ## fail when generated files are not what generate writes
	@changed=$$(git status --porcelain -- $(GENERATED)); \
	if [[ -n $$changed ]]; then \
		git --no-pager diff -- $(GENERATED) | head -n 100; \
		echo "generated files differ from what make generate writes; run it and commit:"; echo "$$changed"; exit 1; \
	fi

.PHONY: buf-lint
buf-lint: ## style and format of the .proto files
	$(BUF) lint
	$(BUF) format --diff --exit-code proto

.PHONY: breaking
breaking: ## fail when the .proto files break clients of AGAINST (default: main)
	$(BUF) breaking --against '.git#branch=$(AGAINST)'
