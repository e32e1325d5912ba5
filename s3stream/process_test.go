package s3stream_test

import "os/exec"
import "strings"

const helperEnv = "PENSTOCK_TEST_HELPER"

func helper() int { return 0 }

// goRoot is where the Go tree is.
func goRoot() string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "/usr/local/go"
	}
	return strings.TrimSpace(string(out))
}
