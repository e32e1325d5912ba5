package testorigin

import (
	"slices"
	"sort"
	"strings"
	"sync"
)

// Counter counts the requests of one operation on one key.
type Counter struct {
	Op string
	// Key is "bucket/key" for objects, "bucket" for operations on a bucket,
	// "repo@digest" for blobs, "repo:tag" or "repo@digest" for manifests.
	Key      string
	Requests int64 // requests answered or being answered
	Success  int64 // 2xx answers
	Faults   int64 // requests on which at least one fault rule fired
	Bytes    int64 // body bytes of 2xx answers handed to the socket; error documents don't count
	Received int64 // body bytes read from the client
}

type counterKey struct{ op, key string }

type counters struct {
	mu   sync.Mutex // guards the fields below; a leaf lock
	m    map[counterKey]*Counter
	sent map[string]*coverage
}

func (c *counters) get(op, key string) *Counter {
	k := counterKey{op, key}
	if c.m == nil {
		c.m, c.sent = map[counterKey]*Counter{}, map[string]*coverage{}
	}
	n := c.m[k]
	if n == nil {
		n = &Counter{Op: op, Key: key}
		c.m[k] = n
	}
	return n
}

func (c *counters) begin(op, key string, faulted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.get(op, key)
	n.Requests++
	if faulted {
		n.Faults++
	}
}

// Bytes and answers are counted just before they are sent, and corrected if the
// client did not take them. If they were counted afterwards, a test that reads
// the counters after the last byte could see them without that request.

// header counts an answer before its header is sent.
func (c *counters) header(op, key string, status int) {
	if status < 200 || status > 299 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.get(op, key).Success++
}

// received counts n body bytes from the client.
func (c *counters) received(op, key string, n int64) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.get(op, key).Received += n
}

// document counts n bytes of an answer that is not an object, such as a listing or
// a manifest.
func (c *counters) document(op, key string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.get(op, key).Bytes += n
}

// sending counts the span [off, off+n) of key before it is sent.
func (c *counters) sending(op, key string, off, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.get(op, key).Bytes += n
	v := c.sent[key]
	if v == nil {
		v = &coverage{}
		c.sent[key] = v
	}
	v.inFlight = append(v.inFlight, [2]int64{off, off + n})
}

// taken corrects the count of sending after the client has taken m of the n bytes.
func (c *counters) taken(op, key string, off, n, m int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.sent[key]
	if v == nil {
		return // Reset has been called since
	}
	i := slices.Index(v.inFlight, [2]int64{off, off + n})
	if i < 0 {
		return // Reset has been called since
	}
	v.inFlight = slices.Delete(v.inFlight, i, i+1)
	v.add(off, off+m)
	c.get(op, key).Bytes -= n - m
}

// Counters returns a snapshot of all counters, sorted by key and operation.
func (o *Origin) Counters() []Counter {
	o.count.mu.Lock()
	out := make([]Counter, 0, len(o.count.m))
	for _, n := range o.count.m {
		out = append(out, *n)
	}
	o.count.mu.Unlock()
	sort.Slice(out, func(i, j int) bool {
		if out[i].Key != out[j].Key {
			return out[i].Key < out[j].Key
		}
		return out[i].Op < out[j].Op
	})
	return out
}

// Count returns the counter of op on key; op "" sums over all operations.
func (o *Origin) Count(op, key string) Counter {
	sum := Counter{Op: op, Key: key}
	o.count.mu.Lock()
	defer o.count.mu.Unlock()
	for k, n := range o.count.m {
		if k.key == key && (op == "" || op == k.op) {
			sum.Requests += n.Requests
			sum.Success += n.Success
			sum.Faults += n.Faults
			sum.Bytes += n.Bytes
			sum.Received += n.Received
		}
	}
	return sum
}

// TotalBytes returns the body bytes sent for all keys that start with prefix.
func (o *Origin) TotalBytes(prefix string) int64 {
	var sum int64
	o.count.mu.Lock()
	defer o.count.mu.Unlock()
	for k, n := range o.count.m {
		if strings.HasPrefix(k.key, prefix) {
			sum += n.Bytes
		}
	}
	return sum
}

// Reset sets all counters and coverages to zero. It keeps the counts of fault
// rules, which belong to the script.
func (o *Origin) Reset() {
	o.count.mu.Lock()
	defer o.count.mu.Unlock()
	o.count.m, o.count.sent = nil, nil
}

// Coverage counts the distinct bytes of a key that were sent.
type Coverage struct {
	Unique int64 // distinct bytes sent at least once
	Again  int64 // bytes sent again; Unique + Again is the number of all bytes sent
}

// Coverage returns the coverage of key ("bucket/key" or "repo@digest") since
// the start or the last Reset.
func (o *Origin) Coverage(key string) Coverage {
	o.count.mu.Lock()
	defer o.count.mu.Unlock()
	v := o.count.sent[key]
	if v == nil {
		return Coverage{}
	}
	c := coverage{Coverage: v.Coverage, from: slices.Clone(v.from), to: slices.Clone(v.to)}
	for _, s := range v.inFlight {
		c.add(s[0], s[1])
	}
	return c.Coverage
}

// coverage is a set of disjoint, non-adjacent, sorted intervals [from, to), and
// the spans that are being sent.
type coverage struct {
	Coverage
	from, to []int64
	inFlight [][2]int64
}

func (v *coverage) add(from, to int64) {
	if from >= to {
		return
	}
	// The intervals i..j-1 touch or overlap the new one and merge with it.
	i := sort.Search(len(v.to), func(i int) bool { return v.to[i] >= from })
	j, lo, hi := i, from, to
	var overlap int64
	for ; j < len(v.from) && v.from[j] <= to; j++ {
		overlap += max(0, min(v.to[j], to)-max(v.from[j], from))
		lo, hi = min(lo, v.from[j]), max(hi, v.to[j])
	}
	v.from = append(v.from[:i], append([]int64{lo}, v.from[j:]...)...)
	v.to = append(v.to[:i], append([]int64{hi}, v.to[j:]...)...)
	v.Unique += to - from - overlap
	v.Again += overlap
}
