package snapshotter

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// rawMessage is a message as it is on the wire.
type rawMessage []byte

// rawCodec takes and gives messages as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*rawMessage)
	if !ok {
		return nil, fmt.Errorf("%T is no raw message", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*m)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*rawMessage)
	if !ok {
		return fmt.Errorf("%T is no raw message", v)
	}
	*m = data.Materialize()
	return nil
}

// Name is what goes into the content type: what kubelet and containerd speak.
func (rawCodec) Name() string { return "proto" }
