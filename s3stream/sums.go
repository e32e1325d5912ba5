package s3stream

import (
	"context"
	"fmt"
	"sync"

	"github.com/penstock/penstock/s3stream/internal/wire"
)

// leaderSums holds what the leader read of each object, as it says over its own connection to a worker. A relay
// computes the checksums of the blocks that it passes on, so only these sums prove an object.
type leaderSums struct {
	mu    sync.Mutex // guards what follows
	first int        // the object of sums[0]; those before it have been taken
	sums  []wire.ObjectSum
	news  chan struct{} // closed and replaced when sums grows
}

func newLeaderSums() *leaderSums { return &leaderSums{news: make(chan struct{})} }

// add appends the sums of the objects from first on. The leader sends each object once and in order.
func (l *leaderSums) add(first uint32, sums []wire.ObjectSum, objects int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.first + len(l.sums)
	if int64(first) != int64(next) || len(sums) > objects-next {
		return fmt.Errorf("%w: sums of %d objects from number %d on, expected those from %d of %d", wire.ErrHeader, len(sums), first, next, objects)
	}
	l.sums = append(l.sums, sums...)
	close(l.news)
	l.news = make(chan struct{})
	return nil
}

// take waits for the sum of the object and forgets it. Objects are taken in order.
func (l *leaderSums) take(ctx context.Context, object int) (wire.ObjectSum, error) {
	for {
		l.mu.Lock()
		news := l.news
		if object == l.first && len(l.sums) > 0 {
			s := l.sums[0]
			l.first, l.sums = l.first+1, l.sums[1:]
			l.mu.Unlock()
			return s, nil
		}
		l.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return wire.ObjectSum{}, context.Cause(ctx)
		}
	}
}

// sumsPerFrame keeps a Sums frame below a control frame's limit, and short enough that a ping behind it is not late.
const sumsPerFrame = 1024

// tellSums sends the member what the leader read of each object, as soon as it is known.
func (r *leaderRun) tellSums(ctx context.Context, m *member) {
	for next := 0; next < len(r.items.m.Objects); {
		sums, news := r.feed.sumsFrom(next)
		if len(sums) == 0 {
			select {
			case <-news:
				continue
			case <-ctx.Done():
				return
			}
		}
		p := make([]byte, 0, len(sums)*wire.ObjectSumLen)
		for i := range sums {
			p = sums[i].Append(p)
		}
		if err := m.conn.WriteSmall(wire.Sums, uint32(next), p); err != nil {
			m.conn.Close() // its listener reports the loss
			return
		}
		next += len(sums)
	}
}
