// Command figures writes the figures of README.md and docs from the recorded
// results of the benchmarks. Run it by make figures.
package main

import (
	"fmt"
	"os"

	"github.com/penstock/penstock/internal/figures"
)

func main() {
	changed, err := figures.Update(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
	for _, name := range changed {
		fmt.Println("updated", name)
	}
}
