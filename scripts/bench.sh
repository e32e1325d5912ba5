#!/usr/bin/env bash
# Runs the benchmarks of one area.
#   scripts/bench.sh AREA [flags of the area's program]
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
need_go

areas=()
for f in benchmarks/*/main.go; do
	[ -e "$f" ] || continue
	area=${f%/main.go}
	area=${area##*/}
	[ "$area" = demo ] || areas+=("$area")
done
area=${1:-}
[ $# -eq 0 ] || shift
if [ -z "$area" ] || [ ! -e "benchmarks/$area/main.go" ]; then
	[ -z "$area" ] || echo "no benchmark area '$area'" >&2
	echo "usage: make bench AREA=NAME [ARGS=\"-quick\"], where NAME is one of: ${areas[*]}" >&2
	exit 2
fi
scripts/setup.sh bench
mkdir -p bin
CGO_ENABLED=0 go build -o "bin/bench-$area" "./benchmarks/$area"
exec "bin/bench-$area" "$@"
