#!/usr/bin/env bash
# Installs the pinned developer tools into .tools/bin through Go's module
# proxy. They are pinned here and not in go.mod: the module is what users
# import, and a linter does not belong to it.
#   scripts/tools.sh golangci-lint|benchstat|govulncheck ...
# It also builds the programs that tests talk to, in the version that go.mod names:
# containerd, ctr, containerd-shim-runc-v2. No distribution has that version.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
need_go

module() {
	case "$1" in
	golangci-lint) echo github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 ;;
	deadcode) echo golang.org/x/tools/cmd/deadcode@v0.52.0 ;;
	benchstat) echo golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da ;;
	govulncheck) echo golang.org/x/vuln/cmd/govulncheck@v1.9.0 ;;
	containerd | ctr | containerd-shim-runc-v2)
		echo "github.com/containerd/containerd/v2/cmd/$1@$(awk '$1 == "github.com/containerd/containerd/v2" { print $2; exit }' go.mod)"
		;;
	*) die "scripts/tools.sh: unknown tool '$1'" ;;
	esac
}

for tool in "$@"; do
	wanted=$(module "$tool")
	stamp=".tools/$tool.version"
	# Parts that no test starts are left out, which halves the time to build.
	tags=
	case "$tool" in
	containerd) tags=no_btrfs,no_zfs,no_devmapper ;; # with CRI: pods are tested
	containerd-*) tags=no_btrfs,no_cri,no_zfs,no_devmapper ;;
	ctr) tags=no_btrfs ;;
	esac
	# Rebuilt when the pin, the tags or the Go version changes: an analyser reads
	# the standard library with the compiler it was built by.
	want="$wanted $(go env GOVERSION)${tags:+ $tags}"
	if [ -x ".tools/bin/$tool" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
		continue
	fi
	mkdir -p .tools/bin
	log=$(mktemp)
	if ! GOBIN="$ROOT/.tools/bin" CGO_ENABLED=0 GOFLAGS='' go install -tags "$tags" "$wanted" </dev/null >"$log" 2>&1; then
		tail -n 5 "$log" >&2
		rm -f "$log"
		die "could not install $wanted"
	fi
	rm -f "$log"
	echo "$want" >"$stamp"
done
