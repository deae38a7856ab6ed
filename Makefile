# Each target does its own set-up. `make test` is the one to run after a change; the rest takes longer.

GO      ?= go
BIN     ?= bin/ginnel
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

FUZZTIME  ?= 1m
BENCHTIME ?= 1s

# How often 'make interop-join' has each program join.
JOINROUNDS ?= 9

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: all module-path build test test-stdnet race lint fuzz bench bench-peers bench-peers-smoke bench-paths bench-paths-smoke lab interop interop-control interop-join clean

all: build

# One static binary that needs no C library.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/ginnel

test:
	$(GO) vet ./...
	$(GO) test ./...

# The same with the portable fall-backs instead of the Linux system calls.
test-stdnet:
	$(GO) test -tags ginnel_stdnet ./...

race:
	$(GO) test -race -shuffle=on ./...

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags lab ./internal/lab
	GOOS=windows $(GO) vet ./cmd/... ./internal/cli/... ./node ./transport ./userstack ./wireguard ./proxy ./relay/...
	GOOS=darwin $(GO) vet ./cmd/... ./internal/cli/... ./node ./transport ./userstack ./wireguard ./proxy ./relay/...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(STATICCHECK) -tags lab ./internal/lab
	$(GO) run $(STATICCHECK) -tags ginnel_stdnet ./internal/sys
	cd interop && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...
	cd bench && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...
	@./.ci/vulncheck $(GO) $(GOVULNCHECK)

# Every fuzz target of the module, each for FUZZTIME.
fuzz:
	@./.ci/fuzz $(GO) $(FUZZTIME)

bench:
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# Our nodes and relay beside tailscaled, wireproxy and derper: needs root or user namespaces, and makes and removes the
# networks itself. Building the peers takes minutes the first time. PEERS takes flags: '-only direct -rounds 5', '-write' to
# write BENCHMARKS.md; '-help' tells them all.
bench-peers:
	@./.ci/need ip:iproute2 nsenter:util-linux
	cd bench && $(GO) run ./cmd/peers $(PEERS)

# Shows that the comparison works, with one contender of each kind. Its figures mean nothing.
bench-peers-smoke:
	@./.ci/need ip:iproute2 nsenter:util-linux
	cd bench && $(GO) test ./... && $(GO) run ./cmd/peers -smoke -only direct,ginnel/ginnel-relay,tailscaled/derper,relay

# Our nodes beside the kernel's TCP and the same peers on emulated long, narrow and lossy paths, in about an hour. It needs what
# bench-peers does, and /dev/net/tun. PATHS takes flags: '-paths ^rtt66 -only ginnel,tailscaled -steps ^down1', '-write';
# '-help' tells them all.
bench-paths:
	@./.ci/need ip:iproute2 nsenter:util-linux
	cd bench && $(GO) run ./cmd/paths $(PATHS)

# Shows that this comparison works, on one path, with some contenders of each kind. Its figures mean nothing.
bench-paths-smoke:
	@./.ci/need ip:iproute2 nsenter:util-linux
	cd bench && $(GO) run ./cmd/paths -smoke -only kernel-bbr,kernel-forwarded,ginnel,tailscaled/derper

# Network namespaces, tunnels and firewalls: needs root, and makes and removes all of it itself.
lab:
	@./.ci/need ip:iproute2 tc:iproute2 nft:nftables curl:curl nc:netcat-openbsd setpriv:util-linux
	$(GO) test -tags lab -count=1 -timeout 20m ./internal/lab

# The wire spoken with the reference implementation.
interop:
	cd interop && $(GO) test -count=1 -timeout 20m .

# Whole networks of tailscaled, derper, headscale and our programs: needs root or user namespaces. Building all of these
# takes minutes the first time.
interop-control:
	@./.ci/need ip:iproute2 nsenter:util-linux nginx:nginx-light haproxy:haproxy
	cd interop && $(GO) test -count=1 -timeout 20m ./programs

# How long our node and tailscaled take from the start of the process to the first byte of a peer, side by side.
interop-join:
	@./.ci/need ip:iproute2 nsenter:util-linux
	cd interop && $(GO) test -count=1 -timeout 20m -v -run '^TestJoinTime$$' ./programs -join-rounds $(JOINROUNDS)

clean:
	rm -rf bin

# Renames the module, for publication: make module-path TO=example.org/ginnel
module-path:
	@GO=$(GO) ./.ci/module-path $(TO)
