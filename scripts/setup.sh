#!/usr/bin/env bash
# Brings a machine to where `make demo`, `make test` or `make bench` can run.
#   scripts/setup.sh demo|test|bench
# Needs Go. Everything else comes through apt when we are root; otherwise one
# line names what is missing and the tests that need it skip by name.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_go

# command:package pairs of the programs that a test or the demo starts. Without an
# optional one, its tests are skipped by name.
optional=()
case "${1:-test}" in
demo) wanted=(fusermount3:fuse3) ;;
test)
	wanted=(git:git gcc:gcc ip:iproute2 fusermount3:fuse3 setfattr:attr)
	optional=(docker-registry:docker-registry runc:runc mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs)
	# About a minute of one processor, once for each version.
	if is_root && ! scripts/tools.sh containerd ctr containerd-shim-runc-v2; then
		echo "set-up: no containerd; the tests that need it are skipped by name" >&2
	fi
	;;
bench) wanted=(git:git ip:iproute2 fusermount3:fuse3) ;;
*) die "usage: scripts/setup.sh demo|test|bench" ;;
esac

# absent prints the packages of the pairs whose command is not here.
absent() {
	local pair
	for pair in "$@"; do
		have "${pair%%:*}" || printf '%s\n' "${pair##*:}"
	done
}
mapfile -t missing < <(absent "${wanted[@]}")
mapfile -t extra < <(absent ${optional[@]+"${optional[@]}"})
# The race detector links with libc, so gcc alone is not enough.
if [ "${1:-test}" = test ] && [ ! -e /usr/include/stdlib.h ]; then
	missing+=(libc6-dev)
fi

if [ ${#missing[@]} -eq 0 ] && { [ ${#extra[@]} -eq 0 ] || ! is_root; }; then
	exit 0
fi
if ! is_root || ! have apt-get; then
	[ ${#missing[@]} -eq 0 ] ||
		echo "set-up: missing ${missing[*]} (install them as root); what needs them is skipped by name" >&2
	exit 0
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { apt-get install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1; }

if [ ${#missing[@]} -gt 0 ]; then
	echo "set-up: installing ${missing[*]} with apt"
	if ! install "${missing[@]}" && ! { apt-get update </dev/null >"$log" 2>&1 && install "${missing[@]}"; }; then
		tail -n 5 "$log" >&2
		echo "set-up: apt could not install ${missing[*]}; what needs them is skipped by name" >&2
	fi
fi
for package in ${extra[@]+"${extra[@]}"}; do
	if install "$package" || { apt-get update </dev/null >"$log" 2>&1 && install "$package"; }; then
		# The tests start a registry themselves, so the one of the package is stopped.
		service "$package" stop >/dev/null 2>&1 || true
	else
		echo "set-up: no package $package here; the test that compares with it is skipped" >&2
	fi
done
