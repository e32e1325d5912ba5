#!/usr/bin/env bash
# Makes the static site of the documents in site/. The program is a module of
# its own: users of the library do not download its Markdown library.
#   scripts/site.sh         make it; fails on a broken link
#   scripts/site.sh check   run the tests of the program, which render this tree
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
need_go
export CGO_ENABLED=0
cd internal/site
case ${1:-make} in
make) exec go run . -root ../.. -out ../../site ;;
check) exec go test -count=1 . ;;
*) die "usage: scripts/site.sh [make|check]" ;;
esac
