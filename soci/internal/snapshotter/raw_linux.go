package snapshotter

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// rawMessage is an encoded message.
type rawMessage []byte

// rawCodec passes encoded messages through.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*rawMessage)
	if !ok {
		return nil, fmt.Errorf("%T is not a raw message", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*m)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*rawMessage)
	if !ok {
		return fmt.Errorf("%T is not a raw message", v)
	}
	*m = data.Materialize()
	return nil
}

// Name returns the content type of kubelet and containerd.
func (rawCodec) Name() string { return "proto" }
