package redact

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Mask stands for a secret that is set.
const Mask = "[redacted]"

// Struct returns the exported fields of a struct that are not zero, as
// {Name:value Name:value}. The fields that secrets names show [Mask]. Pointers,
// functions and interfaces show only "set", because their targets may hold
// secrets. Struct panics if v is not a struct, or if secrets names a field that v
// does not have.
func Struct(v any, secrets ...string) string {
	val := reflect.ValueOf(v)
	for _, name := range secrets {
		if _, ok := val.Type().FieldByName(name); !ok {
			panic(fmt.Sprintf("redact: %T has no field %s", v, name))
		}
	}
	var b strings.Builder
	b.WriteByte('{')
	for i := range val.NumField() {
		field, f := val.Type().Field(i), val.Field(i)
		if !field.IsExported() || f.IsZero() {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(' ')
		}
		b.WriteString(field.Name + ":" + text(f, slices.Contains(secrets, field.Name)))
	}
	b.WriteByte('}')
	return b.String()
}

func text(f reflect.Value, secret bool) string {
	switch {
	case secret:
		return Mask
	case slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Func, reflect.Interface, reflect.Chan, reflect.UnsafePointer}, f.Kind()):
		return "set"
	case f.Kind() == reflect.String, f.Type() == reflect.TypeFor[[]string]():
		return fmt.Sprintf("%q", f.Interface())
	}
	return fmt.Sprintf("%+v", f.Interface())
}
