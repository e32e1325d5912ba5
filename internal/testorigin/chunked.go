package testorigin

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// The aws-chunked content encoding:
//
//	hex-size [;chunk-signature=hex] CRLF bytes CRLF ... 0 [;chunk-signature=hex] CRLF [trailer: value CRLF]... CRLF
//
// The SDKs send it by default over TLS, with the checksum in a trailer, and
// older ones with a signature for each chunk.

var (
	errChunkSyntax    = errors.New("malformed aws-chunked body")
	errChunkSignature = errors.New("a chunk signature does not match")
)

const (
	// maxChunkLine bounds a chunk header or trailer line: a signature is 64
	// bytes, a checksum at most 44.
	maxChunkLine = 1024
	// maxTrailers bounds the number of trailers; clients send one checksum and,
	// if chunks are signed, a signature.
	maxTrailers = 16
)

// chunkedReader decodes an aws-chunked body. Trailers are complete when Read
// has returned io.EOF.
type chunkedReader struct {
	r       *bufio.Reader
	left    int64 // bytes left of the chunk being read
	started bool
	err     error
	trailer http.Header
	verify  *chunkVerifier // nil if chunks are not signed
	want    string         // signature of the chunk being read
}

func newChunkedReader(r io.Reader, v *chunkVerifier) *chunkedReader {
	return &chunkedReader{r: bufio.NewReader(r), trailer: http.Header{}, verify: v}
}

func (c *chunkedReader) Read(p []byte) (int, error) {
	if c.err == nil && c.left == 0 {
		c.err = c.nextChunk()
	}
	if c.err != nil {
		return 0, c.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if c.verify != nil {
		c.verify.chunk.Write(p[:n])
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	c.err = err
	if n > 0 {
		err = nil
	}
	return n, err
}

func (c *chunkedReader) line() (string, error) {
	var line []byte
	for {
		frag, err := c.r.ReadSlice('\n')
		line = append(line, frag...)
		if len(line) > maxChunkLine {
			return "", errChunkSyntax
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		}
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			return "", errChunkSyntax
		}
		return string(line[:len(line)-2]), nil
	}
}

// nextChunk ends the current chunk and reads the header of the next one. After
// the last chunk it reads the trailers and returns io.EOF.
func (c *chunkedReader) nextChunk() error {
	if c.started {
		if s, err := c.line(); err != nil {
			return err
		} else if s != "" {
			return errChunkSyntax
		}
		if err := c.verify.check(c.want); err != nil {
			return err
		}
	}
	c.started = true
	s, err := c.line()
	if err != nil {
		return err
	}
	size, ext, _ := strings.Cut(s, ";")
	n, err := strconv.ParseUint(size, 16, 63)
	if err != nil {
		return fmt.Errorf("%w: chunk size %q", errChunkSyntax, size)
	}
	c.want = strings.TrimPrefix(ext, "chunk-signature=")
	if n > 0 {
		c.left = int64(n)
		return nil
	}
	if err := c.verify.check(c.want); err != nil {
		return err
	}
	return c.readTrailers()
}

func (c *chunkedReader) readTrailers() error {
	var signed strings.Builder
	for range maxTrailers {
		s, err := c.line()
		if errors.Is(err, io.ErrUnexpectedEOF) && len(c.trailer) == 0 {
			return io.EOF // some signers omit the last CRLF without trailers
		}
		if err != nil {
			return err
		}
		if s == "" {
			if c.verify != nil && len(c.trailer) > 0 {
				if err := c.verify.checkTrailer(signed.String(), c.trailer.Get("X-Amz-Trailer-Signature")); err != nil {
					return err
				}
			}
			return io.EOF
		}
		name, value, ok := strings.Cut(s, ":")
		if !ok || name == "" {
			return fmt.Errorf("%w: trailer", errChunkSyntax)
		}
		name, value = strings.ToLower(name), strings.TrimSpace(value)
		c.trailer.Set(name, value)
		if name != "x-amz-trailer-signature" {
			signed.WriteString(name + ":" + value + "\n")
		}
	}
	return fmt.Errorf("%w: too many trailers", errChunkSyntax)
}

// chunkVerifier checks the chain of chunk signatures, each of which covers the
// previous one. A nil verifier accepts everything.
type chunkVerifier struct {
	key   []byte // signing key
	scope string
	date  string
	prev  string
	chunk hash.Hash
}

func newChunkVerifier(id identity) *chunkVerifier {
	return &chunkVerifier{
		key: id.key, scope: id.sig.scope(), date: id.sig.at.UTC().Format(sigTimeFormat),
		prev: id.sig.signature, chunk: sha256.New(),
	}
}

func (v *chunkVerifier) check(want string) error {
	if v == nil {
		return nil
	}
	sum := hex.EncodeToString(v.chunk.Sum(nil))
	v.chunk.Reset()
	return v.advance(sigAlgorithm+"-PAYLOAD", sha256Hex(nil)+"\n"+sum, want)
}

func (v *chunkVerifier) checkTrailer(trailer, want string) error {
	return v.advance(sigAlgorithm+"-TRAILER", sha256Hex([]byte(trailer)), want)
}

func (v *chunkVerifier) advance(kind, rest, want string) error {
	got := hex.EncodeToString(hmacSHA256(v.key, kind+"\n"+v.date+"\n"+v.scope+"\n"+v.prev+"\n"+rest))
	if got != want {
		return errChunkSignature
	}
	v.prev = got
	return nil
}
