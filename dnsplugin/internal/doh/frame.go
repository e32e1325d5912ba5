package doh

import (
	"encoding/binary"
	"fmt"
)

// preface is the first thing that a client sends (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	frameHeaderLen = 9
	// maxFrameLen is the longest payload that either side sends: the initial
	// value of SETTINGS_MAX_FRAME_SIZE, which this side does not raise.
	maxFrameLen = 1 << 14

	// initialWindow is how many bytes of bodies may be under way at first, on
	// a connection and on each of its streams.
	initialWindow = 1<<16 - 1
	maxWindow     = 1<<31 - 1
)

// Types of frames (RFC 9113, section 6).
const (
	frameData = iota
	frameHeaders
	framePriority
	frameResetStream
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

// Flags of frames.
const (
	flagAck        = 0x1 // SETTINGS, PING
	flagEndStream  = 0x1 // DATA, HEADERS
	flagEndHeaders = 0x4 // HEADERS, CONTINUATION
	flagPadded     = 0x8 // DATA, HEADERS
	flagPriority   = 0x20
)

// Settings (RFC 9113, section 6.5.2).
const (
	settingEnablePush        = 2
	settingMaxStreams        = 3
	settingInitialWindow     = 4
	settingMaxFrameSize      = 5
	settingMaxHeaderListSize = 6
)

// code is an error code (RFC 9113, section 7).
type code uint32

// The codes that are sent.
const (
	codeNone         code = 0
	codeProtocol     code = 1
	codeInternal     code = 2
	codeFlowControl  code = 3
	codeStreamClosed code = 5
	codeFrameSize    code = 6
	codeRefused      code = 7
	codeCompression  code = 9
	codeEnhanceCalm  code = 11
)

// connError is an error that ends the connection.
type connError struct {
	code code
	text string
}

func (e connError) Error() string {
	return fmt.Sprintf("doh: %s (HTTP/2 error code %d)", e.text, e.code)
}

// frame is a frame that a client has sent. Its payload is a part of the input.
type frame struct {
	kind    byte
	flags   byte
	stream  uint32
	payload []byte
}

// parseFrame returns the frame at the start of in, and its length. The length
// is 0 if the frame has not come whole.
func parseFrame(in []byte) (f frame, n int, err error) {
	if len(in) < frameHeaderLen {
		return frame{}, 0, nil
	}
	length := int(in[0])<<16 | int(in[1])<<8 | int(in[2])
	if length > maxFrameLen {
		return frame{}, 0, connError{codeFrameSize, "a frame is too long"}
	}
	n = frameHeaderLen + length
	if len(in) < n {
		return frame{}, 0, nil
	}
	f = frame{kind: in[3], flags: in[4], stream: binary.BigEndian.Uint32(in[5:]) &^ (1 << 31), payload: in[frameHeaderLen:n]}
	return f, n, nil
}

// has reports whether a flag is set.
func (f *frame) has(flag byte) bool { return f.flags&flag != 0 }

// unpad returns the payload without padding, and for HEADERS without priority.
func (f *frame) unpad() ([]byte, error) {
	p, pad := f.payload, 0
	if f.has(flagPadded) {
		if len(p) == 0 {
			return nil, connError{codeFrameSize, "a frame is too short for its padding"}
		}
		pad, p = int(p[0]), p[1:]
	}
	if f.kind == frameHeaders && f.has(flagPriority) {
		if len(p) < 5 {
			return nil, connError{codeFrameSize, "a frame is too short for its priority"}
		}
		p = p[5:]
	}
	if pad > len(p) {
		return nil, connError{codeProtocol, "a frame has more padding than payload"}
	}
	return p[:len(p)-pad], nil
}

// appendFrameHeader appends the header of a frame with length bytes of payload.
func appendFrameHeader(out []byte, kind, flags byte, stream uint32, length int) []byte {
	out = append(out, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return binary.BigEndian.AppendUint32(out, stream)
}

func appendReset(out []byte, stream uint32, c code) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(out, frameResetStream, 0, stream, 4), uint32(c))
}

func appendGoAway(out []byte, last uint32, c code) []byte {
	out = appendFrameHeader(out, frameGoAway, 0, 0, 8)
	out = binary.BigEndian.AppendUint32(out, last)
	return binary.BigEndian.AppendUint32(out, uint32(c))
}

func appendWindowUpdate(out []byte, stream uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(out, frameWindowUpdate, 0, stream, 4), uint32(n))
}

func appendSetting(out []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(out, id), value)
}
