# Spare: build, test, measure. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

PROGRAMS := spare spare-hub spare-node
RELEASE  ?= 0.1.0-dev
COMMIT   := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
VERSION  ?= $(RELEASE)$(if $(COMMIT),+$(COMMIT))
LDFLAGS  := -s -w -X github.com/spare-compute/spare.Version=$(VERSION)
# What starts sandboxes on Linux has the program of their first process inside.
TAGS     := embedfirst
GOBUILD  := CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags $(TAGS) -ldflags '$(LDFLAGS)'

FUZZTIME ?= 60s
VIDEO    ?=
BENCH    ?=
# A suite that hangs is ended by go test itself, with every goroutine's stack.
TESTTIME ?= 30m

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: go
go:
	@scripts/check-go.sh

.PHONY: setup
setup: go ## install what the tests and the demo need and this machine lacks
	@scripts/setup.sh all
	@scripts/runtimes.sh --cache

.PHONY: first
first: go
	@for arch in amd64 arm64; do CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -trimpath -buildvcs=false -ldflags '-s -w' \
		-o sandbox/first_linux_$$arch ./sandbox/first/program; done

.PHONY: build
build: first ## build spare, spare-hub and spare-node into bin/
	@mkdir -p bin
	@for p in $(PROGRAMS); do $(GOBUILD) -o bin/$$p ./cmd/$$p; done
	@echo "built bin/: $(PROGRAMS) ($(VERSION))"

.PHONY: runtimes
runtimes: go ## build what hubs hand out to run Python on WebAssembly into bin/runtimes/
	@scripts/runtimes.sh

.PHONY: demo
demo: go ## a hub, three nodes, a video, a kill; VIDEO=file uses yours
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory build
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/spare-demo ./demo
	@exec bin/spare-demo --bin bin --out demo-out $(if $(VIDEO),--video '$(VIDEO)')

.PHONY: test
test: setup first ## run every test with the race detector, fuzz seeds included
	CGO_ENABLED=1 go test -race -tags $(TAGS) -count=1 -timeout $(TESTTIME) $$(go list ./... | grep -vE '/(e2e|sandbox)(/|$$)')
	@# One by one: what runs there is at idle priority, and beside encoders gets no processor.
	CGO_ENABLED=1 go test -race -tags $(TAGS) -count=1 -timeout $(TESTTIME) -p 1 ./sandbox/... ./e2e

.PHONY: attacks
attacks: setup first ## every attack on every runtime, and on podman and bubblewrap; writes docs/sandbox.md
	SPARE_LONG=1 CGO_ENABLED=0 go test -tags $(TAGS) -count=1 -timeout $(TESTTIME) ./sandbox -run '^TestAttacks$$' -update

.PHONY: fuzz
fuzz: go ## run each fuzz target for FUZZTIME (60s)
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: setup build ## print the tables of docs/benchmarks.md; BENCH=dispatch,idle picks some
	@cd bench && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o ../bin/spare-bench . && \
		CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -tags $(TAGS) -o ../bin/spare-bench-sandbox ./sandboxstart
	@exec bin/spare-bench --bin bin --out bench-out $(if $(BENCH),--only '$(BENCH)')

.PHONY: bench-build
bench-build: go ## check that the benchmarks still compile
	cd bench && CGO_ENABLED=0 go vet ./...

.PHONY: cross
cross: first ## build the programs for six targets into dist/ and print their sizes
	@LDFLAGS='$(LDFLAGS)' TAGS='$(TAGS)' scripts/cross.sh $(PROGRAMS)

.PHONY: lint
lint: go ## gofumpt, go vet, staticcheck, file length
	@scripts/lint.sh

.PHONY: clean
clean: ## remove what the targets above made
	rm -rf bin dist demo-out bench-out sandbox/first_linux_*
