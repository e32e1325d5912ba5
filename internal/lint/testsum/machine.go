package testsum

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// Machine is what a machine offers to tests.
type Machine struct {
	Root  bool // effective user 0
	Fuse  bool // /dev/fuse can be opened
	NetNS bool // a network namespace can be made
	// Has reports whether a program is on PATH; nil means none is.
	Has func(program string) bool
}

// ThisMachine looks at the machine that runs the program.
func ThisMachine() Machine {
	m := Machine{
		Root: os.Geteuid() == 0,
		Has: func(program string) bool {
			_, err := exec.LookPath(program)
			return err == nil
		},
	}
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err == nil {
		f.Close()
		m.Fuse = true
	}
	m.NetNS = canMakeNetNS()
	return m
}

// needsTool matches "needs tool NAME" at the start of a reason.
var needsTool = regexp.MustCompile(`^needs tool ([\w.-]+)`)

// Contradicts returns the need that the reason of a skip names and this machine
// meets, or "" when the skip is right. A skip in short mode is always right.
func (m Machine) Contradicts(reason string) string {
	need, _, _ := strings.Cut(reason, ":")
	if t := needsTool.FindStringSubmatch(reason); t != nil {
		if m.Has != nil && m.Has(t[1]) {
			return t[1] + " is on PATH"
		}
		return ""
	}
	if !strings.HasPrefix(need, "needs ") {
		return ""
	}
	// A reason may name several needs ("needs root and /dev/fuse"): it stands
	// when one of them is missing.
	abilities := []struct {
		word string
		has  bool
		text string
	}{
		{"root", m.Root, "this is root"},
		{"/dev/fuse", m.Fuse, "/dev/fuse can be opened"},
		{"network namespaces", m.NetNS, "network namespaces can be made"},
		{"CAP_SYS_ADMIN", m.NetNS, "namespaces can be made, which takes CAP_SYS_ADMIN"},
	}
	var present []string
	for _, a := range abilities {
		if !strings.Contains(need, a.word) {
			continue
		}
		if !a.has {
			return ""
		}
		present = append(present, a.text)
	}
	return strings.Join(present, " and ")
}
