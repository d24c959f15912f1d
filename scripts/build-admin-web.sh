#!/bin/sh
# Builds the operators' page from its sources and puts it where the program embeds it.
# Usage: build-admin-web.sh SOURCES DESTINATION
set -eu

sources=$1
dest=$2

if [ ! -f "$sources/package.json" ]; then
	echo "build-admin-web: there are no sources of the operators' page in $sources: put a checkout of them there, or say ADMIN_WEB=directory" >&2
	exit 2
fi
if command -v bun >/dev/null 2>&1; then
	(cd "$sources" && bun install --frozen-lockfile && bun run build)
elif command -v npm >/dev/null 2>&1; then
	if [ -f "$sources/package-lock.json" ]; then install=ci; else install=install; fi
	(cd "$sources" && npm "$install" --no-audit --no-fund && npm run build)
else
	echo "build-admin-web: neither bun nor npm is here: install one of them, or leave the page out with make build" >&2
	exit 2
fi
if [ ! -f "$sources/build/index.html" ]; then
	echo "build-admin-web: the build left no $sources/build/index.html" >&2
	exit 1
fi
mkdir -p "$dest"
find "$dest" -mindepth 1 ! -name README -delete
cp -R "$sources/build/." "$dest/"
# The page asks for this file whether there is a newer one than that which runs.
version=
while IFS= read -r line || [ -n "$line" ]; do
	case $line in
	*'"version"'*:*'"'*'"'*)
		line=${line#*\"version\"*\"}
		version=${line%%\"*}
		break
		;;
	esac
done <"$sources/package.json"
case $version in
'' | *[!0-9A-Za-z.+-]*) ;;
*) printf '{"version":"%s"}\n' "$version" >"$dest/version.json" ;;
esac
echo "build-admin-web: the page is in $dest; make build embeds it"
