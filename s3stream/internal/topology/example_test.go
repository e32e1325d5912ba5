package topology_test

import (
	"fmt"

	"github.com/penstock/penstock/s3stream/internal/topology"
)

// Every node derives the same plan, and from it whom to ask when its parent
// fails.
func Example() {
	plan, err := topology.Make(8, topology.Shape{}, topology.Load{Bytes: 1 << 30, BlockBytes: 1 << 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(plan.Shape(), plan.Parent(3), plan.Children(3))
	b := topology.NewBackups(plan, 3)
	b.Fail(2)
	fmt.Println(b.Next())
	// Output:
	// chain 2 [4]
	// 1 true
}
