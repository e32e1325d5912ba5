package testorigin

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
)

// TestVersionsNeverMix overwrites, copies, deletes and swaps objects while
// others read them. Every version is one byte repeated, so a body with two
// different bytes is a mix. After Close the scratch folder must be empty.
func TestVersionsNeverMix(t *testing.T) {
	dir := t.TempDir()
	o, c := start(t, Options{Dir: dir, Seed: 5}), client(t)
	if err := o.CreateBucket("b", BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	o.SetFaults(Fault{Op: "GetObject", Probability: 0.1, Action: ActSwap}, Fault{Op: "GetObject", Probability: 0.05, Action: ActTruncate, At: AtRandom})
	const keys, rounds, size = 3, 60, memoryBody + 50_000
	var wg sync.WaitGroup
	worker := func(n int, step func(i int, u string)) {
		for range n {
			wg.Go(func() {
				for i := range rounds {
					step(i, o.ObjectURL("b", fmt.Sprint(i%keys)))
				}
			})
		}
	}
	worker(2, func(i int, u string) {
		resp, _, err := do(t, c, "PUT", u, bytes.Repeat([]byte{byte(i)}, size))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("PUT: %v %v", resp, err)
		}
	})
	worker(1, func(i int, u string) {
		if i%5 == 0 {
			_, _, _ = do(t, c, "DELETE", u, nil)
		} else {
			_, _, _ = do(t, c, "PUT", u, nil, "X-Amz-Copy-Source", fmt.Sprintf("/b/%d", (i+1)%keys))
		}
	})
	worker(3, func(_ int, u string) {
		resp, got, _ := do(t, c, "GET", u, nil, "Range", "bytes=100-")
		if resp == nil || resp.StatusCode != http.StatusPartialContent || len(got) == 0 {
			return // deleted, or cut before its first byte
		}
		if n := bytes.Count(got, got[:1]); n != len(got) {
			t.Errorf("a body of %d bytes has %d of one version", len(got), n)
		}
	})
	wg.Wait()
	// Handlers release their content shortly after the client has the last
	// byte; Close waits for them.
	if err := o.Close(); err != nil {
		t.Error("Close:", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("%d files left in the scratch folder (%v)", len(left), err)
	}
}
