#!/usr/bin/env bash
# Builds the programs of the packages (*/cmd/*) into bin/, static and without
# paths of this machine.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
need_go

mapfile -t mains < <(go list -f '{{if eq .Name "main"}}{{.ImportPath}}{{end}}' ./... | grep -E '/(soci|s3stream|dnsplugin|csi)/cmd/' || true)
[ ${#mains[@]} -gt 0 ] || die "no programs found under */cmd/"
mkdir -p bin
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/ "${mains[@]}"
for m in "${mains[@]}"; do
	printf '  %-24s %s\n' "bin/${m##*/}" "$(du -h "bin/${m##*/}" | cut -f 1)"
done
