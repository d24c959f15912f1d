#!/bin/sh
# Calls through the built server: two callers learn of TURN by IMAP METADATA and
# reach each other over it, by UDP, TCP and TLS. Arguments go to "go test".
set -eu
cd "$(dirname "$0")/.."
make build
MADMAIL_BINARY=$PWD/build/madmail exec go test -count=1 -v "$@" ./test/turn/...
