package s3

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/penstock/penstock/internal/redact"
)

// String returns the fields that are set, without secrets.
func (o Options) String() string { return redact.Struct(o, "SSECustomerKey") }

// Format implements [fmt.Formatter]: every verb prints String.
func (o Options) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, o.String()) }

// MarshalJSON writes String as a JSON string.
func (o Options) MarshalJSON() ([]byte, error) { return json.Marshal(o.String()) }

// LogValue returns String, for log/slog.
func (o Options) LogValue() slog.Value { return slog.StringValue(o.String()) }

// Format implements [fmt.Formatter]: a Client shows its region and endpoint,
// and not the options and keys that it holds.
func (c *Client) Format(f fmt.State, _ rune) {
	endpoint := "AWS"
	if c.endpoint != nil {
		endpoint = c.endpoint.Host
	}
	_, _ = fmt.Fprintf(f, "S3 client of %s in %s", endpoint, c.Region())
}
