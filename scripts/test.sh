#!/usr/bin/env bash
# Runs the stages of a test run, cheapest signal first, one line per stage, and
# closes with "N passed, N failed, N skipped".
#   scripts/test.sh all              what make test does
#   scripts/test.sh check            what make check does
#   scripts/test.sh race|fuzz [PKG]  one kind of test, over PKG (default ./...)
#   scripts/test.sh house|lint|fmt|vulncheck
# V=1 prints the output of every stage, not only of those that fail.
# shellcheck disable=SC2317 # the checks are called through stage
set -euo pipefail
exec </dev/null # nothing here reads input; a test that does gets end of file
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

mode=${1:-all}
pkgs=("${@:2}")
[ ${#pkgs[@]} -gt 0 ] || pkgs=(./...)

# Packages that must compile where FUSE and namespaces do not exist, and where
# an int has 32 bits: what a program on a laptop or a phone would import.
portable=(./internal/budget/... ./internal/invariants/... ./internal/ranges/... ./internal/httprange/... ./internal/s3/...)

# These packages hold a few lines of ours and link every plugin of CoreDNS, most of
# Kubernetes and three clouds. The other stages test them; compiling them again for
# another processor or for the race detector would take minutes.
heavy='/dnsplugin/cmd/|/benchmarks/'

# Modules inside the tree, which ./... does not reach.
nested=(benchmarks/engine/peers soci/internal/inflate/ztoc/peer internal/site)

# One fuzz target runs this long in make test; all of them together stop at
# FUZZ_TOTAL, counted with the build of the instrumented code.
FUZZTIME=${FUZZTIME:-5s}
FUZZ_TOTAL=${FUZZ_TOTAL:-240} # seconds
# make fuzz runs a target until it has seen FUZZ_LEAST new inputs, for FUZZ_MOST seconds
# at most. A target that runs few inputs finds nothing, which looks like success.
FUZZ_LEAST=${FUZZ_LEAST:-20000}
FUZZ_MOST=${FUZZ_MOST:-600}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=0
begin=$SECONDS

# record NAME pass|fail|skip [REASON]
record() { printf '%s\t%s\t%s\n' "$1" "$2" "${3:-}" >>"$logs/stages.tsv"; }

# stage NAME COMMAND... runs a check that passes or fails as a whole.
stage() {
	local name=$1 start=$SECONDS
	shift
	printf '%-44s' "$name"
	if "$@" >"$logs/out" 2>&1; then
		printf 'ok    %4d s\n' $((SECONDS - start))
		record "$name" pass
		[ -z "${V:-}" ] || cat "$logs/out"
		return 0
	fi
	printf 'FAIL  %4d s\n' $((SECONDS - start))
	sed 's/^/    /' "$logs/out"
	record "$name" fail
	failed=1
	return 1
}

# skip NAME REASON
skip() {
	printf '%-44sskip  (%s)\n' "$1" "$2"
	record "$1" skip "$2"
}

# tests NAME GO-TEST-ARGUMENTS... runs go test and prints what failed; the
# summary counts its tests.
tests() {
	local name=$1 start=$SECONDS rc=0
	shift
	printf '%-44s' "$name"
	go test -json "$@" >"$logs/$name.json" 2>"$logs/out" || rc=$?
	cat "$logs/out" >>"$logs/$name.json"
	local word=ok
	[ $rc -eq 0 ] || word=FAIL
	printf '%-4s  %4d s' "$word" $((SECONDS - start))
	"$testsum" report "$logs/$name.json" >"$logs/report" || true
	printf '   %s\n' "$(tail -n 1 "$logs/report")"
	if [ $rc -ne 0 ]; then
		head -n -1 "$logs/report" | sed 's/^/    /'
		again "$name" "$@" || failed=1
	fi
}

# again NAME GO-TEST-ARGUMENTS... runs the failed tests of a stage five times more,
# while the packages of the stage run beside them as they did when the tests failed,
# and succeeds when all of them pass. The summary counts these tests as unsteady, and
# fails the run unless a list excuses them. At most three tests of a stage get a
# second run, and a race, a panic or a leak gets none.
again() {
	local name=$1 arg pkg test flags=() load rc=0
	shift
	for arg in "$@"; do
		case $arg in
		./* | github.com/*) ;;
		*) flags+=("$arg") ;;
		esac
	done
	[ "$mode" = all ] || return 1 # a developer sees the failure at once
	rm -f "$logs/unsteady.new"
	"$testsum" again "$logs/$name.json" >"$logs/again" || return 1
	[ -s "$logs/again" ] || return 1
	set -m # the load gets a process group of its own, to be ended as a whole
	while :; do go test -count=1 "$@"; done >/dev/null 2>&1 &
	load=$!
	set +m
	while IFS=$'\t' read -r pkg test; do
		printf '    again, under the load of the stage: %s %s ... ' "${pkg#github.com/penstock/penstock/}" "$test"
		if ! go test "${flags[@]}" -count=5 -run "^$test\$" "$pkg" >"$logs/out" 2>&1; then
			echo 'FAIL'
			sed 's/^/    /' "$logs/out"
			rc=1
			break
		fi
		echo 'passed 5 times'
		printf '%s\t%s\t%s\n' "$pkg" "$test" "$name" >>"$logs/unsteady.new"
	done <"$logs/again"
	kill -TERM -- "-$load" 2>/dev/null || true
	wait "$load" 2>/dev/null || true
	[ $rc -eq 0 ] || return 1
	cat "$logs/unsteady.new" >>"$logs/unsteady.tsv"
}

no_diff() { # COMMAND...: fails and shows it when the command prints anything
	local out
	out=$("$@")
	[ -z "$out" ] || {
		printf '%s\n' "$out"
		return 1
	}
}

# go_files prints the Go files of the repository; without a usable git work
# tree (a tarball, another user's clone), all that are there.
go_files() {
	{ git ls-files --cached --others --exclude-standard -- '*.go' 2>/dev/null ||
		find . -name '*.go' -not -path './.*' | sed 's|^\./||'; } |
		while read -r f; do [ ! -e "$f" ] || printf '%s\n' "$f"; done
}

check_format() {
	local files
	mapfile -t files < <(go_files)
	no_diff gofmt -l "${files[@]}"
}

check_tidy() {
	go mod tidy -diff
	go mod verify
}

check_vet() { # GOOS GOARCH PACKAGES...
	local os=$1 arch=$2
	shift 2
	GOOS=$os GOARCH=$arch CGO_ENABLED=0 go vet "$@"
}

check_build() { # GOOS GOARCH PACKAGES...
	local os=$1 arch=$2
	shift 2
	GOOS=$os GOARCH=$arch CGO_ENABLED=0 go build "$@"
}

check_nested() ( # DIR
	cd "$1"
	go mod tidy -diff
	go vet ./...
)

check_nested_lint() ( # DIR
	cd "$1"
	golangci-lint run --allow-parallel-runners -c "$ROOT/.golangci.yml" ./...
)

check_programs() {
	mkdir -p "$logs/bin"
	mapfile -t mains < <(go list -f '{{if eq .Name "main"}}{{.ImportPath}}{{end}}' ./... | grep .)
	CGO_ENABLED=0 go build -o "$logs/bin/" "${mains[@]}"
}

# traces prints leftovers of tests on the machine: FUSE mounts, network
# namespaces, and a null device that a rename as root replaced by a file.
traces() {
	grep -E ' fuse[. ]' /proc/self/mounts || true
	if have ip; then ip netns list || true; fi
	[ -c /dev/null ] || echo '/dev/null is not a device'
}

check_traces() {
	traces >"$logs/after"
	diff "$logs/before" "$logs/after"
}

existing() { # of the patterns given, those whose folder exists
	local p
	for p in "$@"; do
		if [ -d "${p%/...}" ]; then printf '%s\n' "$p"; fi
	done
}

# check_commits checks the messages of the commits that are under the rules.
check_commits() { go run ./internal/lint/cmd/commits; }

run_static() {
	stage 'format' check_format || true
	stage 'go.mod tidy and verified' check_tidy || true
	if git rev-parse HEAD >/dev/null 2>&1; then
		stage 'commit messages' check_commits || true
	else
		skip 'commit messages' 'needs a git work tree'
	fi
	# A tree that fails vet would fail every later stage.
	stage 'vet linux/amd64' check_vet linux amd64 ./... || return 1
	local dir
	for dir in "${nested[@]}"; do
		stage "tidy and vet ($dir)" check_nested "$dir" || true
	done
	stage 'links and anchors of the documents' scripts/site.sh check || true
}

run_cross() {
	local some
	mapfile -t some < <(existing "${portable[@]}")
	[ ${#some[@]} -gt 0 ] || return 0
	local light
	mapfile -t light < <(go list ./... | grep -vE "$heavy")
	stage 'vet linux/arm64' check_vet linux arm64 "${light[@]}" || true
	stage 'vet linux/386 (portable packages)' check_vet linux 386 "${some[@]}" || true
	stage 'build darwin/arm64 (portable packages)' check_build darwin arm64 "${some[@]}" || true
}

run_lint() {
	stage 'golangci-lint installed' scripts/tools.sh golangci-lint || return 0
	stage 'golangci-lint' golangci-lint run --allow-parallel-runners ./... || true
	local dir
	for dir in "${nested[@]}"; do
		stage "golangci-lint ($dir)" check_nested_lint "$dir" || true
	done
}

# run_house runs the rules of the house: the tests of internal/lint, a list of the
# hard sentences in a change, and the search for code that no user can reach.
run_house() {
	stage 'import graph and house rules' go test -count=1 ./internal/lint/... || true
	local base hard
	if base=$(git merge-base HEAD '@{upstream}' 2>/dev/null); then
		hard=$(go run ./internal/lint/cmd/prose -change "$base" | head -n 40) || true
		[ -z "$hard" ] || printf 'hard to read in this change:\n%s\n' "$hard"
	fi
	stage 'deadcode installed' scripts/tools.sh deadcode || return 0
	stage 'unreachable code' go run ./internal/lint/cmd/unreachable || true
}

run_race() {
	if ! have gcc; then
		skip 'race' 'needs tool gcc: the race detector links with cgo'
		return 0
	fi
	local list=("${pkgs[@]}")
	if [ "${pkgs[*]}" = ./... ]; then
		mapfile -t list < <(go list ./... | grep -vE "$heavy")
	fi
	CGO_ENABLED=1 tests race -race -tags invariants -skip '^TestPriv' -timeout 10m "${list[@]}"
}

# fuzz_targets prints "dir target" for every fuzz target below the folder $1. The
# targets of a folder stay together, because fuzzing compiles a package and its
# dependencies with coverage. In the time box of make test the list starts at a
# target that the commit decides, so that over many commits each target is fuzzed
# as often as the others; FUZZ_SEED=N repeats a run.
fuzz_targets() {
	local line seed
	go_files | grep '_test\.go$' | grep "^$1" | xargs -r grep -HoE '^func Fuzz[A-Za-z0-9_]*' |
		while IFS= read -r line; do
			printf '%s %s\n' "$(dirname "${line%%:*}")" "${line##*func }"
		done >"$logs/targets"
	seed=${FUZZ_SEED:-$(git rev-parse HEAD 2>/dev/null || date +%F)}
	[ "$mode" = all ] || seed=
	sort "$logs/targets" | "$testsum" rotate "$seed"
}

# fuzz_count prints how many new inputs a run of go test -fuzz has executed: all
# executions but those of the corpus.
fuzz_count() {
	awk 'match($0, /baseline coverage: [0-9]+\/[0-9]+/) { split(substr($0, RSTART, RLENGTH), p, "/"); base = p[2] }
		match($0, /execs: [0-9]+/) { execs = substr($0, RSTART + 7, RLENGTH - 7) }
		END { n = execs - base; print (n > 0 ? n : 0) }'
}

# fuzz_once DIR TARGET fuzzes one target. At the end of its time go test now and then
# reports its own deadline as a failure, without a failing input, which says nothing
# about the target. New inputs are minimized by ten tries each; go test's minute for
# each would leave no time for fuzzing.
fuzz_once() {
	local out rc=0
	out=$(go test -run '^$' -fuzz "^$2\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 10x -parallel 2 -timeout 20m "./$1" 2>&1) || rc=$?
	printf '%s\n' "$out"
	[ $rc -eq 0 ] || [[ $out == *'context deadline exceeded'* && $out != *'Failing input written'* ]]
}

# fuzz_target DIR TARGET fuzzes one target, in make fuzz until it has run enough.
fuzz_target() {
	local start=$SECONDS ran=0 out
	while :; do
		if ! out=$(fuzz_once "$1" "$2"); then
			printf '%s\n' "$out"
			return 1
		fi
		printf '%s\n' "$out"
		ran=$((ran + $(fuzz_count <<<"$out")))
		echo "$ran" >"$logs/ran"
		[ "$mode" = fuzz ] && [ $ran -lt "$FUZZ_LEAST" ] || break
		if [ $((SECONDS - start)) -ge "$FUZZ_MOST" ]; then
			echo "$2 ran $ran new inputs in $((SECONDS - start)) s, at least $FUZZ_LEAST are wanted: make it faster, or its seeds smaller"
			return 1
		fi
	done
}

# run_fuzz fuzzes each target alone, as go test wants it.
run_fuzz() {
	local start=$SECONDS dir target ran spent
	local under=${pkgs[0]#./}
	under=${under%...}
	under=${under%/}
	while read -r dir target; do
		if [ "$mode" = all ] && [ $((SECONDS - start)) -ge "$FUZZ_TOTAL" ]; then
			skip "fuzz $target ($dir)" "the time box of $FUZZ_TOTAL s is used up; its corpus ran as unit tests"
			continue
		fi
		echo 0 >"$logs/ran"
		spent=$SECONDS
		stage "fuzz $target ($dir)" fuzz_target "$dir" "$target" || true
		ran=$(<"$logs/ran")
		printf '%6d s %10d inputs  %s (%s)\n' $((SECONDS - spent)) "$ran" "$target" "$dir" >>"$logs/fuzzed"
		[ "$ran" -ge 1000 ] || ran+=", which is few: make fuzz wants 20000"
		echo "    new inputs: $ran"
	done < <(fuzz_targets "$under")
	if [ -s "$logs/fuzzed" ]; then
		echo 'fuzzed, with the build of the instrumented code:'
		sort -rn "$logs/fuzzed"
	fi
}

# run_vulncheck looks the dependencies up in Go's vulnerability database. make test skips it where the database cannot
# be reached, and says so; make vulncheck and the public CI, which have a network, fail instead.
run_vulncheck() {
	local must=
	if [ "$mode" = vulncheck ] || [ -n "${GITHUB_ACTIONS:-}" ]; then must=yes; fi
	if ! scripts/tools.sh govulncheck >"$logs/vuln" 2>&1; then
		vulncheck_unavailable "$must" 'govulncheck cannot be installed'
	elif timeout 300 govulncheck ./... >"$logs/vuln" 2>&1; then
		stage 'govulncheck' true
	elif grep -q 'Vulnerability #' "$logs/vuln"; then
		stage 'govulncheck' sh -c "cat '$logs/vuln'; false" || true
	else
		vulncheck_unavailable "$must" 'the vulnerability database cannot be reached'
	fi
}

vulncheck_unavailable() { # MUST REASON
	if [ -n "$1" ]; then
		stage 'govulncheck' sh -c "echo '$2: the dependencies are unchecked'; tail -n 5 '$logs/vuln'; false" || true
	else
		skip 'govulncheck' "$2"
	fi
}

finish() {
	local rc=0
	"$testsum" summary "$logs" || rc=$?
	echo "took $(((SECONDS - begin) / 60)) min $(((SECONDS - begin) % 60)) s"
	[ $failed -eq 0 ] && [ $rc -eq 0 ] || exit 1
	exit 0
}

need_go
touch "$logs/stages.tsv"
if [ "$mode" = fmt ]; then
	scripts/tools.sh golangci-lint
	exec golangci-lint fmt ./...
fi
[ "$mode" != all ] || scripts/setup.sh test
echo "Go $(go env GOVERSION | sed s/^go//) on $(go env GOOS)/$(go env GOARCH), $(nproc) CPUs"
testsum=$logs/testsum
CGO_ENABLED=0 go build -o "$testsum" ./internal/lint/cmd/testsum
export CGO_ENABLED=0

case $mode in
all)
	traces >"$logs/before"
	run_static || finish
	run_cross
	run_lint
	run_house
	tests unit -short -shuffle=on -skip '^TestPriv' -timeout 5m ./...
	tests full -skip '^TestPriv' -timeout 10m ./...
	run_race
	run_fuzz
	tests privileged -count=1 -p 1 -run '^TestPriv' -timeout 10m ./...
	stage 'nothing left behind' check_traces || true
	stage 'examples and programs build' check_programs || true
	run_vulncheck
	;;
check)
	run_static || finish
	run_lint
	run_house
	tests unit -short -shuffle=on -skip '^TestPriv' -timeout 5m ./...
	;;
race) run_race ;;
fuzz) run_fuzz ;;
house) run_house ;;
lint) run_lint ;;
vulncheck) run_vulncheck ;;
*) die "usage: scripts/test.sh all|check|race|fuzz|house|lint|vulncheck|fmt" ;;
esac
finish
