package wire

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"
)

// nonceLen is the length of a nonce: as long as the MAC, so that guessing one
// is no easier than guessing the other.
const nonceLen = sha256.Size

// Role is what a dialling peer wants to be.
type Role string

// The roles.
const (
	Join  Role = "join"  // a worker at the leader: the control connection
	Child Role = "child" // a node at its parent: the data connection
)

// Request is what a dialling peer asks for.
type Request struct {
	Role Role   `json:"role"`
	Name string `json:"name,omitempty"` // how the peer calls itself in logs
	// Join
	Addr string `json:"addr,omitempty"` // where its children reach it
	Rank int    `json:"rank"`           // the launcher's rank; negative if unknown
	Mem  int64  `json:"mem,omitempty"`  // bytes of its buffers
	// Child
	Node uint32 `json:"node,omitempty"` // its number in the plan
	Job  string `json:"job,omitempty"`  // fences out the peers of another run
	From uint64 `json:"from,omitempty"` // the first item that it lacks
}

// Failure is a refusal or a farewell that says why.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (f *Failure) Error() string { return f.Message }

// CodeToken is the code of a Failure for a peer without the right token.
const CodeToken = "token"

// hello is the payload of a Hello frame.
type hello struct {
	Nonce   []byte          `json:"nonce"`
	Proof   []byte          `json:"proof"`
	Request json.RawMessage `json:"request"`
}

// proof binds a side of one handshake to the token and to what it says.
func proof(token, side string, nonceA, nonceB, payload []byte) []byte {
	m := hmac.New(sha256.New, []byte(token))
	m.Write([]byte("penstock-cast 2 " + side + "\x00"))
	m.Write(nonceA) // fixed lengths: no ambiguity between the fields
	m.Write(nonceB)
	m.Write(payload)
	return m.Sum(nil)
}

// Accept runs the acceptor's half of the handshake up to the decision: the
// caller looks at the request and then calls welcome, or Refuse.
func Accept(c *Conn, token string, timeout time.Duration) (req Request, welcome func() error, err error) {
	if err := deadline(c, timeout); err != nil {
		return Request{}, nil, err
	}
	nonce := make([]byte, nonceLen)
	_, _ = rand.Read(nonce) // never fails: crypto/rand crashes the program instead
	if err := c.WriteSmall(Challenge, 0, nonce); err != nil {
		return Request{}, nil, err
	}
	h, err := c.ReadHeader()
	if err != nil {
		return Request{}, nil, err
	}
	if h.Type != Hello {
		return Request{}, nil, fmt.Errorf("%w: %s before hello", ErrHeader, h.Type)
	}
	var he hello
	if err := c.ReadJSON(h, &he); err != nil {
		return Request{}, nil, err
	}
	if len(he.Nonce) != nonceLen || !hmac.Equal(he.Proof, proof(token, "dialler", nonce, he.Nonce, he.Request)) {
		f := &Failure{CodeToken, "wrong token: leader and workers need the same shared secret"}
		Refuse(c, f)
		return Request{}, nil, f
	}
	if err := json.Unmarshal(he.Request, &req); err != nil {
		return Request{}, nil, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	return req, func() error {
		if err := c.WriteSmall(Welcome, 0, proof(token, "acceptor", he.Nonce, nonce, nil)); err != nil {
			return err
		}
		return deadline(c, 0)
	}, nil
}

// farewell bounds the last words to a peer: many round trips of any network a
// job runs in, and short enough that an interrupted program ends at once.
const farewell = 250 * time.Millisecond

// Refuse tells the peer why it is turned away. The caller closes.
func Refuse(c *Conn, f *Failure) {
	// The peer may be gone or not reading; the close that follows says enough.
	_ = c.SetWriteDeadline(time.Now().Add(farewell)) // frees the lock, if a write is stuck
	c.SetWriteTimeout(farewell)
	_ = c.WriteJSON(Error, f)
}

// Open runs the dialler's half of the handshake. A refusal is a *Failure.
func Open(c *Conn, token string, req Request, timeout time.Duration) error {
	if err := deadline(c, timeout); err != nil {
		return err
	}
	h, err := c.ReadHeader()
	if err != nil {
		return err
	}
	if h.Type != Challenge || h.Length != nonceLen {
		return fmt.Errorf("%w: %s instead of a challenge", ErrHeader, h.Type)
	}
	theirs, err := c.ReadSmall(h)
	if err != nil {
		return err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	ours := make([]byte, nonceLen)
	_, _ = rand.Read(ours)
	if err := c.WriteJSON(Hello, hello{ours, proof(token, "dialler", theirs, ours, body), body}); err != nil {
		return err
	}
	return readWelcome(c, token, ours, theirs)
}

func readWelcome(c *Conn, token string, ours, theirs []byte) error {
	h, err := c.ReadHeader()
	if err != nil {
		return err
	}
	switch h.Type {
	case Error:
		return ReadFailure(c, h)
	case Welcome:
		p, err := c.ReadSmall(h)
		if err != nil {
			return err
		}
		if !hmac.Equal(p, proof(token, "acceptor", ours, theirs, nil)) {
			return &Failure{CodeToken, "the peer does not have our token"}
		}
		return deadline(c, 0)
	}
	return fmt.Errorf("%w: %s instead of a welcome", ErrHeader, h.Type)
}

// ReadFailure reads the payload of an Error frame; it always returns an error.
func ReadFailure(c *Conn, h Header) error {
	var f Failure
	if err := c.ReadJSON(h, &f); err != nil {
		return err
	}
	return &f
}

// deadline bounds reads and writes by d from now; 0 unbounds them.
func deadline(c *Conn, d time.Duration) error {
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	return c.nc.SetDeadline(t)
}
