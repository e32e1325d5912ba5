#!/usr/bin/env bash
# Measures how the cost of a cached answer changes with the number of cores, on
# a machine that has many: the fast path with 1, 2, 4, ... workers on as many
# cores, dnsperf on the others. Prints one line for each.
#   benchmarks/dns/scale.sh [SECONDS]
# Needs Go, dnsperf (Debian: dnsperf), taskset, and at least 4 cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-10}
cores=$(nproc)
if [ "$cores" -lt 4 ]; then
	echo "scale.sh: $cores cores: half of them go to dnsperf, so at least 4 are needed to see anything" >&2
	exit 1
fi
command -v dnsperf >/dev/null || {
	echo "scale.sh: no dnsperf: install the Debian package dnsperf" >&2
	exit 1
}
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$dir"' EXIT
CGO_ENABLED=0 go build -o "$dir/coredns" ./dnsplugin/cmd/coredns

# 10,000 names from a template: the source is of no matter once all are cached.
port=5399
for i in $(seq 10000); do echo "name-$i.example.org A"; done >"$dir/queries"
cat >"$dir/Corefile" <<EOF
.:$port {
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:9399
    loadbalance
    cache 3600 {
        maxmem 256MiB
        fastpath on
    }
    template IN A {
        answer "{{ .Name }} 3600 IN A 192.0.2.1"
    }
}
EOF

ticks() { awk '{print $14 + $15}' "/proc/$server/stat"; }

echo "cores  answers/s   us CPU per answer"
half=$((cores / 2))
for ((n = 1; n <= half; n *= 2)); do
	taskset -c "0-$((n - 1))" "$dir/coredns" -conf "$dir/Corefile" >"$dir/log" 2>&1 &
	server=$!
	ask() { taskset -c "$half-$((cores - 1))" dnsperf -s 127.0.0.1 -p "$port" -d "$dir/queries" "$@" 2>/dev/null; }
	ask -n 2 -Q 20000 -W >/dev/null
	before=$(ticks)
	out=$(ask -n 1000000 -l "$seconds" -c $((64 * n)) -q $((400 * n)) -T "$half")
	after=$(ticks)
	awk -v n="$n" -v t="$((after - before))" '/Queries completed/{c=$3} /per second/{q=$4} END {printf "%5d %10.0f %10.2f\n", n, q, t * 1e4 / c}' <<<"$out"
	kill "$server"
	wait "$server" 2>/dev/null || true
	server=
done
