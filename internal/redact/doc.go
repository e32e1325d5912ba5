// Package redact prints structs without the secrets in them.
//
//	func (o Options) String() string                 { return redact.Struct(o, "Token") }
//	func (o Options) Format(f fmt.State, _ rune)     { _, _ = io.WriteString(f, o.String()) }
//	func (o Options) MarshalJSON() ([]byte, error)   { return json.Marshal(o.String()) }
//	func (o Options) LogValue() slog.Value           { return slog.StringValue(o.String()) }
//
// A type that holds a secret needs all four methods: Format serves every verb
// of fmt, %#v and wrong ones too, and neither encoding/json nor log/slog asks
// for a String. fmt calls no methods on unexported fields, so a type that keeps
// such a struct in one needs a Format of its own.
//
// Package redacttest checks the exported structs of a package.
package redact
