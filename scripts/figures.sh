#!/usr/bin/env bash
# Writes the figures of the documents from the newest recorded results.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
need_go
CGO_ENABLED=0 exec go run ./internal/figures/cmd/figures
