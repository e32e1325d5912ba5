#!/usr/bin/env bash
# Brings a machine to where `make demo`, `make test` or `make bench` can run.
#   scripts/setup.sh demo|test|bench
# Needs Go. Everything else comes through apt when we are root; otherwise one
# line names what is missing and the tests that need it skip by name.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_go

# command:package pairs. Only what a test or the demo really starts.
case "${1:-test}" in
demo) wanted=(fusermount3:fuse3) ;;
test) wanted=(git:git gcc:gcc ip:iproute2 fusermount3:fuse3 setfattr:attr) ;;
bench) wanted=(git:git ip:iproute2 fusermount3:fuse3) ;;
*) die "usage: scripts/setup.sh demo|test|bench" ;;
esac

missing=()
for pair in "${wanted[@]}"; do
	have "${pair%%:*}" || missing+=("${pair##*:}")
done
# The race detector links with libc: a gcc without its headers is not enough.
if [ "${1:-test}" = test ] && have gcc && [ ! -e /usr/include/stdlib.h ]; then
	missing+=(libc6-dev)
fi

if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi
[ "${missing[*]}" = "${missing[*]/gcc/}" ] || missing+=(libc6-dev)

if is_root && have apt-get; then
	echo "set-up: installing ${missing[*]} with apt"
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	if ! { apt-get install -y --no-install-recommends "${missing[@]}" ||
		{ apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; }; } </dev/null >"$log" 2>&1; then
		tail -n 5 "$log" >&2
		echo "set-up: apt could not install ${missing[*]}; what needs them is skipped by name" >&2
	fi
else
	echo "set-up: missing ${missing[*]} (install them as root); what needs them is skipped by name" >&2
fi
