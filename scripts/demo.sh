#!/usr/bin/env bash
# Builds and runs the demo. exec: Ctrl-C reaches the demo itself, which ends
# everything it started.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
need_go

mkdir -p bin
start=$SECONDS
[ -e bin/demo ] || echo "building (the first build fetches and compiles the dependencies: a few minutes)"
export CGO_ENABLED=0
go build -o bin/demo ./benchmarks/demo
go build -o bin/coredns ./dnsplugin/cmd/coredns
go build -o bin/coredns-stock github.com/coredns/coredns # the one that ours is compared with
echo "built in $((SECONDS - start)) s"
exec bin/demo "$@"
