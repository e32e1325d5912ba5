package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A repository with good and bad commits: the gate names each bad one, and sees a
// ceiling that rises although the commit's message is fine.
func TestCheckOfARepository(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs tool git: the commits to check")
	}
	t.Chdir(t.TempDir())
	for _, v := range []string{"AUTHOR", "COMMITTER"} {
		t.Setenv("GIT_"+v+"_NAME", "test")
		t.Setenv("GIT_"+v+"_EMAIL", "test@example.org")
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("git", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	commit := func(message, ceilings string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(ceilingsFile), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ceilingsFile, []byte(ceilings), 0o600); err != nil {
			t.Fatal(err)
		}
		run("add", ".")
		run("commit", "-q", "--allow-empty", "-m", message)
		return run("rev-parse", "HEAD")
	}
	run("init", "-q", ".")
	run("config", "commit.gpgsign", "false")
	base := commit("the beginning", "soci somebody 3\n")
	for _, c := range []struct{ message, ceilings, want string }{
		{"soci: lower a ceiling", "soci somebody 2\n", ""},
		{"soci: raise a ceiling", "soci somebody 4\n", "raises a ceiling of " + ceilingsFile + ": soci somebody: 4, was 2"},
		{"soci: lower it again", "soci somebody 1\n", ""},
		{"soci: the pull is faster", "soci somebody 1\n", "not imperative"},
	} {
		commit(c.message, c.ceilings)
		problems, err := check("", base)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(problems, "\n"); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%q: %q, want %q", c.message, got, c.want)
		}
		base = run("rev-parse", "HEAD")
	}
	// A base that the clone lacks leaves the newest commit to check.
	problems, err := check("", strings.Repeat("0", 40))
	if err != nil || len(problems) != 1 {
		t.Errorf("with an unknown base: %q, %v, want the newest commit's fault", problems, err)
	}
	file := filepath.Join(t.TempDir(), "MSG")
	if err := os.WriteFile(file, []byte("soci: adds a thing\n# a comment of git\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if problems, err := check(file, ""); err != nil || len(problems) != 1 {
		t.Errorf("hook: %q, %v, want one fault", problems, err)
	}
}
