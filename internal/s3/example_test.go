package s3_test

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/s3"
	"github.com/penstock/penstock/internal/testorigin"
)

func Example() {
	origin, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer origin.Close()
	if err := origin.CreateBucket("books", testorigin.BucketOptions{}); err != nil {
		fmt.Println(err)
		return
	}

	ctx := context.Background()
	c, err := s3.New(ctx, s3.Options{
		Endpoint:    origin.URL(),
		Credentials: s3.StaticCredentials(testorigin.AccessKey, testorigin.SecretKey, ""),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	if _, err := c.Put(ctx, "books", "moby", strings.NewReader("Call me Ishmael."), s3.PutOptions{}); err != nil {
		fmt.Println(err)
		return
	}
	for e, err := range c.List(ctx, "books", s3.ListOptions{}) {
		fmt.Println(e.Key, e.Size, err)
	}
	body, info, err := c.Source("books", "moby", s3.SourceOptions{}).Open(ctx, ranges.Request{Off: 8, Len: 7})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	fmt.Println(string(text), info.Size, err)
	// Output:
	// moby 16 <nil>
	// Ishmael 16 <nil>
}
