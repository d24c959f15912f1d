#!/bin/sh
# Why do calls not work? Prints what the running server does about TURN: its
# settings, its sockets, what clients are told, what a firewall must let through.
#
#   scripts/turn-debug-env.sh                 as root, or as the server's user
#   eval "$(scripts/turn-debug-env.sh --env)" only the environment, for a server
#                                             that is started from this shell
#
# TURN_USER and TURN_PASSWORD name an account whose view of the METADATA is shown.
# MADMAIL is the program, CHATMAIL_CONFIG and CHATMAIL_STATE_DIR where it looks.
# Exit code 1 says that something is missing.
set -eu
MADMAIL=${MADMAIL:-madmail}

# Verbose records of the TURN module, where the configuration has a log at all.
echo "export CHATMAIL_TURN_DEBUG=1"
if [ "${1:-}" = --env ]; then exit 0; fi
bad=0
fail() { echo "!! $*"; bad=1; }

status=$("$MADMAIL" status --details) || { echo "!! the server does not answer"; exit 1; }
case $status in *"server: not running"*) echo "!! no server is running"; exit 1 ;; esac

echo
echo "# settings: name, value, source"
settings=$("$MADMAIL" settings list | grep '^turn_')
echo "$settings"
value() { echo "$settings" | awk -F'\t' -v k="$1" '$1 == k { print $2 }'; }

echo
echo "# sockets: port, protocol, listener"
tab=$(printf '\t')
sockets=$(echo "$status" | grep "$tab"'TURN' | cut -f1-3 || true)
if [ -n "$sockets" ]; then
	echo "$sockets"
else
	fail 'TURN is off: it needs turn_enable = true and turn_secret in the configuration, and "madmail creds turn on"'
fi

echo
echo "# what clients are told (host:port:expiry:password)"
if [ -z "${TURN_USER:-}" ]; then
	echo "set TURN_USER and TURN_PASSWORD to see it"
else
	port=$(echo "$status" | awk -F'\t' '$3 == "IMAP TLS" { print $1 }')
	if [ -z "$port" ]; then
		fail "no IMAP over TLS on this server to ask"
	else
		answer=$(printf 'a LOGIN "%s" "%s"\r\nb GETMETADATA "" (/shared/vendor/deltachat/turn /shared/vendor/deltachat/turns /shared/vendor/deltachat/turn-test-relay-only)\r\nc LOGOUT\r\n' \
			"$TURN_USER" "$TURN_PASSWORD" | openssl s_client -quiet -ign_eof -connect "127.0.0.1:$port" 2>/dev/null | tr -d '\r' || true)
		case $answer in *"a OK"*) ;; *) fail "the login of $TURN_USER is refused" ;; esac
		echo "$answer" | grep 'METADATA ""' || fail "METADATA has no entry for TURN"
	fi
fi

echo
echo "# a firewall, here and at the provider, must let in"
echo "$sockets" | awk -F'\t' 'NF > 1 { print $2, $1 }'
echo "udp $(value turn_relay_port_min)-$(value turn_relay_port_max)"
exit $bad
