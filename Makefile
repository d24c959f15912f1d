# Everything that is done to madmail. `make` lists the targets.

-include .env

STATE_DIR ?= ./data
CONFIG    ?= $(STATE_DIR)/chatmail.toml
LOG_FILE  ?= /tmp/chatmail.log
PID_FILE  ?= /tmp/chatmail.pid
FUZZTIME  ?= 10s
ADMIN_WEB ?= ./admin-web
BENCHTIME ?= 10s

BINARY  = ./build/madmail
PKG     = madmail/internal/version
VERSION ?= $(shell sed -n 's/^var Version = "\(.*\)"/\1/p' internal/version/version.go)
BUILD   ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)-$(shell date -u +%Y%m%d%H%M%S)
LDFLAGS = -s -w -X $(PKG).Version=$(VERSION) -X $(PKG).Build=$(BUILD) -X $(PKG).ReleaseKey=$(RELEASE_KEY) -X $(PKG).ReleaseURL=$(RELEASE_URL)
STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck@v0.8.2

# A process id outlives its process: another program may have it by now.
ALIVE  = pid=$$(cat $(PID_FILE) 2>/dev/null) && kill -0 $$pid 2>/dev/null && case "$$(ps -p $$pid -o comm= 2>/dev/null)" in *defunct*) false ;; ''|*$(notdir $(BINARY))*) ;; *) false ;; esac
STATUS = $(BINARY) --config $(CONFIG) --state-dir $(STATE_DIR) status --json 2>/dev/null

export CGO_ENABLED = 0
export DCLOGIN1 DCLOGIN2

.NOTPARALLEL:

.PHONY: help build build-admin-web build-with-admin-web run run-bg restart stop logs dev-certs dev-bind-cap reset-db sign install test race test-turn test-deltachat test-dclogin test-interop test-crash bench \
	gen fuzz fmt fmt-check vet lint cover check dist clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | awk -F'\t' '{printf "  %-16s %s\n", $$1, $$2}'

build: ## build the static binary, build/madmail
	@mkdir -p build
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY) ./cmd/madmail

build-admin-web: ## build the operators' page from its sources in ADMIN_WEB (needs bun or npm)
	@sh scripts/build-admin-web.sh $(ADMIN_WEB) internal/adminui/build

build-with-admin-web: build-admin-web build ## build the page, then the binary with the page inside

run: build ## build and run, ready for a Delta Chat client; makes what it needs in data/
	$(BINARY) --config $(CONFIG) --state-dir $(STATE_DIR) run --dev

run-bg: build ## run in the background; PID_FILE and LOG_FILE say where
	@if $(ALIVE); then echo "it runs already, pid $$pid: make restart puts the new binary in its place"; exit 1; fi; \
	$(BINARY) --config $(CONFIG) --state-dir $(STATE_DIR) run --dev >$(LOG_FILE) 2>&1 & pid=$$!; echo $$pid >$(PID_FILE); \
	for i in $$(seq 300); do \
		$(STATUS) | grep -q "\"pid\":$$pid," && { echo "running, pid $$pid, output in $(LOG_FILE)"; exit 0; }; \
		kill -0 $$pid 2>/dev/null || break; sleep 0.1; done; \
	cat $(LOG_FILE); kill $$pid 2>/dev/null; rm -f $(PID_FILE); echo "it does not run"; exit 1

restart: build stop dev-certs run-bg ## build, stop the old server, start the new one

stop: ## stop the server of run-bg, exactly that one
	@if $(ALIVE); then kill $$pid; \
		for i in $$(seq 100); do $(ALIVE) || break; sleep 0.1; done; \
		if $(ALIVE); then echo "pid $$pid does not stop"; exit 1; fi; echo stopped; fi; rm -f $(PID_FILE)

logs: ## follow the output of run-bg
	tail -n 100 -f $(LOG_FILE)

dev-certs: build ## make a self-signed certificate in STATE_DIR/certs, keeping one that is there
	$(BINARY) --state-dir $(STATE_DIR) certificate dev

dev-bind-cap: build ## let the binary bind ports below 1024 (asks for sudo)
	@command -v setcap >/dev/null || { echo "setcap is not here: on other systems than Linux use ports above 1023"; exit 1; }
	$$([ "$$(id -u)" = 0 ] || echo sudo) setcap cap_net_bind_service=+ep $(BINARY)

reset-db: stop ## forget the accounts: remove the database, keep mail, configuration, token, certificates
	@if $(STATUS) | grep -q '"running":true'; then echo "a server works on $(STATE_DIR): stop it first"; exit 1; fi
	rm -f $(STATE_DIR)/credentials.db* $(STATE_DIR)/chatmail.db*

sign: build ## append a signature to the binary, with KEY=release.pem; "madmail upgrade" asks for it
	scripts/sign.sh $(KEY) $(BINARY)

install: build ## install the binary into /usr/local/bin
	install -m 0755 $(BINARY) /usr/local/bin/madmail

test: ## all quick tests
	go test ./...

race: ## all quick tests with the race detector, shuffled
	CGO_ENABLED=1 go test -race -shuffle=on ./...

test-turn: build ## calls: the TURN package, and two callers through the binary just built
	go test -count=1 ./internal/turnserver
	MADMAIL_BINARY=$(abspath $(BINARY)) go test -count=1 ./test/turn

test-deltachat: build ## drive the real Delta Chat core against the binary just built
	cd test/deltachat && npm ci --no-audit --no-fund --loglevel=error
	MADMAIL_BINARY=$(abspath $(BINARY)) go test -tags deltachat -count=1 -v -timeout 10m ./test/deltachat/...

test-dclogin: ## let the real client talk between two real servers: DCLOGIN1 and DCLOGIN2 are their login links
	@test -n "$$DCLOGIN1" && test -n "$$DCLOGIN2" || { echo "usage: make test-dclogin DCLOGIN1='dclogin:...' DCLOGIN2='dclogin:...'"; exit 2; }
	cd test/deltachat && npm ci --no-audit --no-fund --loglevel=error
	go test -tags deltachat -count=1 -v -timeout 10m -run '^TestTwoLinks$$' ./test/deltachat

test-crash: build ## kill -9 the binary just built under load, CRASH_ROUNDS times (50), fill its disk, and look what is left
	MADMAIL_BINARY=$(abspath $(BINARY)) CRASH_ROUNDS=$(or $(CRASH_ROUNDS),50) go test -tags crash -count=1 -v -timeout 20m ./test/crash/... ./test/stress/...

test-interop: build ## run mail programs of others (curl, isync, shadowsocks-libev, coturn, Postfix with opendkim, systemd: as root) against the binary just built
	MADMAIL_BINARY=$(abspath $(BINARY)) go test -tags interop -count=1 -timeout 10m ./test/interop/...

bench: build ## measure the built server (T1): latency, throughput, logins, idle memory
	MADMAIL_BINARY=$(abspath $(BINARY)) go run ./test/load/bench

fuzz: ## every fuzz target for FUZZTIME each
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$p || exit 1; done; done

gen: ## write docs/reference and the manual page from the tables of the program
	go test ./internal/cli -run TestTheReference -count=1 -update

fmt: ## format the code
	gofmt -w cmd internal test

fmt-check:
	@test -z "$$(gofmt -l cmd internal test)" || { gofmt -l cmd internal test; exit 1; }

vet:
	go vet ./...
	go vet -tags 'deltachat interop crash' ./test/...
	@for o in darwin freebsd windows; do echo "vet $$o"; GOOS=$$o go vet ./cmd/... ./internal/... || exit 1; done

lint: fmt-check vet ## formatting, vet, staticcheck, floors
	$(STATICCHECK) -tags deltachat,interop,crash ./...
	go test ./internal

cover: ## coverage by package
	go test -coverprofile=coverage.out ./... && go tool cover -func=coverage.out | tail -1

check: lint race test test-deltachat test-interop ## what CI runs
	$(MAKE) test-crash CRASH_ROUNDS=10

dist: ## release binaries for all platforms, with checksums
	@mkdir -p build/dist
	@for t in linux/amd64 linux/arm64 linux/arm linux/riscv64 windows/amd64 freebsd/amd64 darwin/arm64; do \
		echo $$t; GOOS=$${t%/*} GOARCH=$${t#*/} go build -trimpath -ldflags '$(LDFLAGS)' -o build/dist/madmail-$$(echo $$t | tr / -) ./cmd/madmail || exit 1; done
	@cd build/dist && sha256sum madmail-* >SHA256SUMS

clean: ## remove what was built
	rm -rf build coverage.out
