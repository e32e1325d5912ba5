// Package redact prints structs without the secrets in them.
//
//	func (o Options) String() string                 { return redact.Struct(o, "Token") }
//	func (o Options) Format(f fmt.State, _ rune)     { _, _ = io.WriteString(f, o.String()) }
//	func (o Options) MarshalJSON() ([]byte, error)   { return json.Marshal(o.String()) }
//	func (o Options) LogValue() slog.Value           { return slog.StringValue(o.String()) }
//
// A type that holds a secret needs all four methods. fmt calls Format for every
// verb, including %#v and invalid verbs. encoding/json and log/slog do not call
// String. fmt calls no methods of unexported fields, so a type with such a struct
// in an unexported field needs a Format of its own.
//
// Package redacttest checks the exported structs of a package.
package redact
