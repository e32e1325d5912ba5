package testorigin_test

import (
	"bytes"
	"context"
	"net/http"
	"os/exec"
	"testing"
	"time"
)

// startServer runs a real server until the end of the test, and returns when
// the server answers HTTP at addr.
func startServer(t *testing.T, addr, bin string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, bin, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get("http://" + addr + "/")
		if err == nil {
			resp.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			return
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("%s ended: %v\n%s", bin, err, out.Bytes())
		case <-deadline.C:
			t.Fatalf("%s does not answer within 30 s", bin)
		case <-tick.C:
		}
	}
}
