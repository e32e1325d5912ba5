package bytesize_test

import (
	"fmt"

	"github.com/penstock/penstock/soci/internal/bytesize"
)

func ExampleParse() {
	fmt.Println(bytesize.Parse("64MiB"))
	fmt.Println(bytesize.Parse("lots"))
	// Output:
	// 67108864 <nil>
	// 0 want a number of bytes, for example 67108864 or 64MiB
}
