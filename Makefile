# Targets: run build release test check e2e bench fuzz clean. Each works on a fresh clone.

GO      ?= go
# The newest tag; without one a version below all tags, newer if the commit is.
VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null \
	|| { at=$$(TZ=UTC0 git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd 2>/dev/null) \
	&& echo v0.0.0-$$at-$$(git describe --always --exclude '*' --abbrev=12 --dirty); } || echo dev)
COMMIT  ?= $(shell sha=$$(git rev-parse HEAD 2>/dev/null) && echo $$sha$$(test -z "$$(git status --porcelain)" || echo -dirty))
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)
DIST    ?= $(CURDIR)/dist
BINARY  ?= limpet
CHANNEL ?= stable
# What nobody asks for here, and half a megabyte: traces of gRPC's own on a debug page,
# manual pages of urfave/cli.
TAGS    := grpcnotrace,urfave_cli_no_docs
LDFLAGS  = -s -w -X main.version=$(VERSION) -X limpet/cli.linkedCommit=$(COMMIT)
CACHE   := $(CURDIR)/.cache
TOOL    := $(GO) tool -modfile=$(CURDIR)/tools/go.mod

FUZZTIME ?= 30s

export CGO_ENABLED ?= 0

.PHONY: run build release release-check release-smoke test check e2e e2e-side e2e-kube e2e-monitoring e2e-s3 e2e-install e2e-long demo-cluster bench fuzz clean

build: ## the static binary, ./limpet
	$(GO) build -trimpath -tags "$(TAGS)" -ldflags "$(LDFLAGS)" -o "$(BINARY)" .

release: ## binaries of all architectures, hashes, SBOMs, image: DIST/VERSION; ARCH=amd64,arm64 for some; MIRROR=URL for install.sh
	cd tools && $(GO) run ./release -repo "$(CURDIR)" -out "$(abspath $(DIST))" -arch "$(ARCH)" \
		-version "$(VERSION)" -tags "$(TAGS)" -channel "$(CHANNEL)" -mirror "$(MIRROR)" -commit "$(COMMIT)" -time "$(SOURCE_DATE_EPOCH)"

release-check: ## two clones, two empty build caches, the same bytes
	cd e2e && E2E_LONG=1 $(GO) test -count=1 -timeout 60m -v -run TestReproducible ./release

release-smoke: ## all architectures: reproducible, run under qemu-user, in an image
	cd e2e && E2E_LONG=1 $(GO) test -count=1 -timeout 90m -v ./release

run: build ## a member on localhost:2379 with its data in ./default.limpet
	./limpet server

test: ## unit tests with the race detector
	CGO_ENABLED=1 $(GO) test -race ./...
	cd tools && $(GO) test ./...

check: ## format, vet, staticcheck, import table
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	cd e2e && $(GO) vet ./...
	cd e2e/kube && $(GO) vet ./...
	cd e2e/monitoring && $(GO) vet ./...
	cd e2e/k3s && $(GO) vet ./...
	cd e2e/s3 && $(GO) vet ./...
	cd bench && $(GO) vet ./...
	cd tools && $(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(GO) mod verify >/dev/null
	$(GO) mod tidy -diff
	$(GO) test -run 'TestImports' .

e2e: e2e-side e2e-kube e2e-monitoring e2e-s3 e2e-install ## against the real etcd, the real Kubernetes, Prometheus' parser, a real S3 store, and on booted machines

e2e-side: ## beside etcd: answers, metrics, crashes, bad input, command line
	cd e2e && $(GO) test -p 1 -count=1 -timeout 40m $$($(GO) list ./... | grep -v '/install$$') # one after the other: they use all cores

e2e-install: ## install.sh on Debians that are booted in containers, as root; the first time, these are fetched
	cd e2e && $(GO) test -count=1 -timeout 40m -v ./install

e2e-long: ## every story of hard days, on limpet and on etcd; about an hour, as root
	cd e2e && E2E_LONG=1 E2E_REFERENCE=1 $(GO) test -count=1 -timeout 120m -v ./hosts/scenario

e2e-kube: ## kube-apiserver and kube-controller-manager on limpet
	cd e2e/kube && $(GO) test -count=1 -timeout 40m -v ./...

e2e-monitoring: ## alert rules and dashboard, by Prometheus' own parser and engine
	cd e2e/monitoring && $(GO) test -count=1 ./...

e2e-s3: ## snapshots in a bucket of versitygw, which takes some minutes to build the first time
	cd e2e/s3 && $(GO) test -count=1 -timeout 30m ./...

demo-cluster: build ## three boards in namespaces become a cluster, lose the leader, and go on
	LIMPET=./limpet sh deploy/demo-cluster.sh

bench: ## limpet beside etcd and kine; writes bench/RESULTS.md
	cd bench && $(GO) run . -write

fuzz: ## every fuzz target for FUZZTIME, one after the other
	@set -e; for pkg in $$($(GO) list ./...); do \
		list=$$($(GO) test -list '^Fuzz' $$pkg); \
		for target in $$(echo "$$list" | grep '^Fuzz'); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg; \
		done; \
	done

clean:
	rm -rf limpet dist $(CACHE)
