//go:build linux && amd64 && !race

package dnsplugin

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// hitPath matches the functions of a hit, from the packet to the reply. All others
// are inlined into them.
const hitPath = `internal/front\.\(\*(Server|Worker)\)\.(parse|prefetch|reply|entryOf|zoneOf|serve)$|` +
	`internal/meters\.\(\*Counters\)\.(CountHit|CountQuery)$|` +
	`internal/front\.Arrange$|internal/wire\.(ParseQuery|AppendKey|\(\*Answer\)\.AppendReply)$|` +
	`internal/sides\.\(\*(Sides|Policy)\)\.(Decide|Hash|FreshTTL)$|` +
	`internal/store\.\(\*(Store|Entry|shard)\)\.(Hash|Touch|Likely|Take|take|entry|has|buckets)$`

// The machine code of a hit has one atomic instruction other than plain loads: the
// exchange that counts a visit in an entry, at most three times until eviction
// examines the entry.
func TestAtomicInstructionsOfAHit(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("needs the go command to disassemble")
	}
	// Build it again, because go test strips a binary that it runs.
	self := filepath.Join(t.TempDir(), "dnsplugin.test")
	if out, err := exec.CommandContext(t.Context(), tool, "test", "-c", "-o", self, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), tool, "tool", "objdump", "-s", hitPath, self).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	atomics := regexp.MustCompile(`\b(LOCK|XCHG[BWLQ]|XADD[LQ]|CMPXCHG\w*)\b`)
	function, functions := "", 0
	var got []string
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(line, "TEXT "); ok {
			function, _, _ = strings.Cut(name, "(SB)")
			function = function[strings.LastIndexByte(function, '/')+1:]
			functions++
			continue
		}
		// Padding between functions is an exchange of AX with itself.
		if op := atomics.FindString(line); op != "" && !strings.Contains(line, "XCHGW AX, AX") && !strings.Contains(line, "NOP") {
			got = append(got, function+" "+op)
		}
	}
	t.Logf("%d functions: %v", functions, got)
	if functions < 10 {
		t.Fatalf("only %d functions found", functions)
	}
	allowed := []string{"store.(*Entry).take XCHGL", "store.(*Store).Take XCHGL"}
	for _, g := range got {
		if !slices.Contains(allowed, g) {
			t.Errorf("%s on the way of a hit", g)
		}
	}
}
