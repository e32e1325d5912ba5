package lint

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// snippetImports are the imports that the fragments of the README leave out.
var snippetImports = map[string]string{
	"soci.":     module + "/soci",
	"s3stream.": module + "/s3stream",
	"csi.":      module + "/csi",
	"fs.":       "io/fs",
	"os.":       "os",
}

// The README's snippets compile against the packages as they are. Fragments are
// wrapped into functions, one for each paragraph; that they leave their results
// unused is all that they may be forgiven.
func TestReadmeSnippetsCompile(t *testing.T) {
	t.Parallel()
	blocks := goBlock.FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) < 4 {
		t.Fatalf("README.md has %d Go snippets, want one for each package", len(blocks))
	}
	top, err := filepath.Abs(root())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, b := range blocks {
		// An overlay puts the program into the module without touching the tree.
		real := filepath.Join(dir, fmt.Sprintf("snippet%d.go", i))
		if err := os.WriteFile(real, []byte(program(b[1])), 0o600); err != nil {
			t.Fatal(err)
		}
		virtual := filepath.Join(top, "examples", fmt.Sprintf("readme%d", i), "main.go")
		overlay, err := json.Marshal(map[string]map[string]string{"Replace": {virtual: real}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, fmt.Sprintf("overlay%d.json", i))
		if err := os.WriteFile(file, overlay, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "build", "-gcflags=-e", "-overlay", file, "-o", os.DevNull, "./examples/"+fmt.Sprintf("readme%d", i))
		cmd.Dir = top
		out, _ := cmd.CombinedOutput() // a failure shows in the lines below
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, "declared and not used") && !strings.HasPrefix(line, "#") {
				t.Errorf("snippet %d of README.md: %s", i+1, strings.TrimSpace(line))
			}
		}
	}
}

// program makes a program of a snippet.
func program(code string) string {
	var b strings.Builder
	b.WriteString("package main\n\n")
	if strings.Contains(code, "func main()") {
		return b.String() + code
	}
	if strings.Contains(code, "import (") {
		return b.String() + code + "\nfunc main() { coremain.Run() }\n"
	}
	b.WriteString("import (\n\"context\"\n")
	for use, path := range snippetImports {
		if strings.Contains(code, use) {
			fmt.Fprintf(&b, "%q\n", path)
		}
	}
	b.WriteString(")\n\nfunc main() {}\n\n")
	for i, para := range strings.Split(strings.TrimSpace(code), "\n\n") {
		fmt.Fprintf(&b, "func fragment%d(ctx context.Context) {\n%s\n}\n\n", i, para)
	}
	return b.String()
}
