//go:build !amd64 || purego || noasm

package flate

func (d *Decoder) fast() { d.fastGeneric() }

func (b *SymbolDecoder) fast() { b.fastGeneric() }
