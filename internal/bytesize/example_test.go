package bytesize_test

import (
	"fmt"

	"github.com/penstock/penstock/internal/bytesize"
)

func ExampleParse() {
	fmt.Println(bytesize.Parse("64MiB"))
	fmt.Println(bytesize.Parse("64MB"))
	fmt.Println(bytesize.Parse("lots"))
	// Output:
	// 67108864 <nil>
	// 64000000 <nil>
	// 0 want a number of bytes with an optional unit, for example 64MiB (binary) or 64MB (decimal)
}
