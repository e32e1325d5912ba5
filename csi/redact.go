package csi

import (
	"fmt"
	"io"

	"github.com/penstock/penstock/internal/redact"
)

// The options below hold S3Options, which redacts itself. They have a Format all the same, because a verb that does not
// fit, such as %s of a pointer, prints nested values without asking them.

// Format implements [fmt.Formatter]: every verb prints the fields that are set, without secrets.
func (o Options) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redact.Struct(o)) }

// Format implements [fmt.Formatter]: every verb prints the fields that are set, without secrets.
func (o BucketOptions) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redact.Struct(o)) }
