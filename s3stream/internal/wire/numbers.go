package wire

import (
	"encoding/binary"
	"fmt"
)

// TrailerLen is the length of an encoded Trailer.
const TrailerLen = 24

// Trailer follows the last block of an object: what the leader read.
type Trailer struct {
	Size int64
	Sum  uint32 // CRC32C of the whole object, as the leader's blocks combine
	// Algorithm and Full are the full-object checksum that the store gave, in
	// the numbering of the caller; Algorithm 0 means that it gave none.
	Algorithm uint8
	Full      uint64
}

// Append encodes t.
func (t Trailer) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(t.Size))
	b = binary.BigEndian.AppendUint32(b, t.Sum)
	b = append(b, t.Algorithm, 0, 0, 0)
	return binary.BigEndian.AppendUint64(b, t.Full)
}

// ParseTrailer decodes a Trailer.
func ParseTrailer(b []byte) (Trailer, error) {
	if len(b) != TrailerLen {
		return Trailer{}, fmt.Errorf("%w: trailer of %d bytes, want %d", ErrHeader, len(b), TrailerLen)
	}
	t := Trailer{
		Size:      int64(binary.BigEndian.Uint64(b)),
		Sum:       binary.BigEndian.Uint32(b[8:]),
		Algorithm: b[12],
		Full:      binary.BigEndian.Uint64(b[16:]),
	}
	if t.Size < 0 || b[13]|b[14]|b[15] != 0 {
		return Trailer{}, fmt.Errorf("%w: impossible trailer", ErrHeader)
	}
	return t, nil
}

// DigestLen is the length of a digest in an ObjectSum.
const DigestLen = 32

// ObjectSumLen is the length of an encoded ObjectSum.
const ObjectSumLen = TrailerLen + DigestLen

// ObjectSum is what the leader says of one object over its own connection to a worker: the object's end, and its
// digest if the job has digests, else zeros.
type ObjectSum struct {
	Trailer
	Digest [DigestLen]byte
}

// Append encodes s.
func (s *ObjectSum) Append(b []byte) []byte { return append(s.Trailer.Append(b), s.Digest[:]...) }

// ParseSums decodes the payload of a Sums frame.
func ParseSums(b []byte) ([]ObjectSum, error) {
	if len(b) == 0 || len(b)%ObjectSumLen != 0 {
		return nil, fmt.Errorf("%w: sums of %d bytes, want a multiple of %d", ErrHeader, len(b), ObjectSumLen)
	}
	sums := make([]ObjectSum, len(b)/ObjectSumLen)
	for i := range sums {
		p := b[i*ObjectSumLen:]
		t, err := ParseTrailer(p[:TrailerLen])
		if err != nil {
			return nil, err
		}
		sums[i].Trailer = t
		copy(sums[i].Digest[:], p[TrailerLen:ObjectSumLen])
	}
	return sums, nil
}

// StateLen is the length of an encoded State.
const StateLen = 24

// State is what a child tells its parent: how far it is and how far its own
// children are. Positions are item numbers of the job (see s3stream/manifest.go).
//
// Invariant: Low <= Have.
type State struct {
	Have uint64 // the first item that the child lacks
	// Low is the first item that the child or one of its children lacks. The
	// parent keeps everything from there, so that the child's children can
	// come to it when the child dies.
	Low      uint64
	Children uint32 // how many would come
	// Waiting says that the child cannot take more because one of its own
	// children is behind: it is alive, and its parent must be patient.
	Waiting bool
}

// Append encodes s.
func (s State) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, s.Have)
	b = binary.BigEndian.AppendUint64(b, s.Low)
	b = binary.BigEndian.AppendUint32(b, s.Children)
	var w byte
	if s.Waiting {
		w = 1
	}
	return append(b, w, 0, 0, 0)
}

// ParseState decodes a State.
func ParseState(b []byte) (State, error) {
	if len(b) != StateLen {
		return State{}, fmt.Errorf("%w: state of %d bytes, want %d", ErrHeader, len(b), StateLen)
	}
	s := State{
		Have:     binary.BigEndian.Uint64(b),
		Low:      binary.BigEndian.Uint64(b[8:]),
		Children: binary.BigEndian.Uint32(b[16:]),
		Waiting:  b[20] == 1,
	}
	if s.Low > s.Have || b[20] > 1 || b[21]|b[22]|b[23] != 0 {
		return State{}, fmt.Errorf("%w: impossible state", ErrHeader)
	}
	return s, nil
}
