# shellcheck shell=bash
# Shared by the scripts beside it; sourced, not run.

# ROOT is the top of the repository, and where every script works.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit

# The tools we install are found before the machine's own; a Go in its usual
# place is found even when it is not on PATH. /usr/sbin holds ip.
export PATH="$ROOT/.tools/bin:$PATH:/usr/local/go/bin:/usr/lib/go/bin:/usr/sbin:/sbin"

die() {
	printf '%s\n' "$*" >&2
	exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

have() { command -v "$1" >/dev/null 2>&1; }

# version_at_least HAVE WANT
version_at_least() {
	[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# need_go stops with one line unless a Go that go.mod accepts is here.
need_go() {
	local want have
	want=$(awk '$1 == "go" { print $2; exit }' go.mod)
	if ! command -v go >/dev/null 2>&1; then
		local hint=""
		if is_root && command -v apt-cache >/dev/null 2>&1; then
			local debian
			debian=$(apt-cache policy golang-go 2>/dev/null | awk '/Candidate:/ { print $2 }' | sed -E 's/^[0-9]+://; s/[~-].*//')
			if [ -n "$debian" ] && [ "$debian" != "(none)" ] && ! version_at_least "$debian" "$want"; then
				hint=" (this system's golang package is $debian: too old)"
			fi
		fi
		die "Go is missing: install Go $want or newer from https://go.dev/dl/ and put its bin folder on PATH$hint"
	fi
	# Inside the module Go first switches to the toolchain that go.mod asks
	# for, if it may; what it reports here is what will build.
	have=$(go env GOVERSION 2>/dev/null | sed 's/^go//; s/[ -].*//') || true
	if [ -z "$have" ]; then
		have=$(cd / && go env GOVERSION | sed 's/^go//; s/[ -].*//')
	fi
	version_at_least "$have" "$want" ||
		die "Go $have is too old: go.mod asks for $want or newer; get it from https://go.dev/dl/ or allow GOTOOLCHAIN=auto"
}
