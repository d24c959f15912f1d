#!/bin/sh
# Signs a program for "madmail upgrade": appends an Ed25519 signature of it.
#
#   openssl genpkey -algorithm ed25519 -out release.pem     once; keep it secret
#   scripts/sign.sh release.pem build/madmail
#
# Prints the public key in the form that RELEASE_KEY of the Makefile takes.
set -eu
[ $# = 2 ] || { echo "usage: $0 KEY.pem PROGRAM" >&2; exit 2; }
sig=$(mktemp)
trap 'rm -f "$sig"' EXIT
openssl pkeyutl -sign -inkey "$1" -rawin -in "$2" -out "$sig"
[ "$(wc -c <"$sig")" -eq 64 ] || { echo "$1 is not an Ed25519 key" >&2; exit 1; }
cat "$sig" >>"$2"
openssl pkey -in "$1" -pubout -outform DER | tail -c 32 | base64
