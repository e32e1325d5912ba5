package front

import "github.com/penstock/penstock/dnsplugin/internal/meters"

// AnswerQuery appends the reply to query, the message of an HTTP request, to buf.
// buf must be empty, and its capacity is the longest reply to send. It is not ok
// if the query must take the plugin chain, which is counted by reason as over TCP.
// hint belongs to the client's connection and keeps its queries on one worker; it
// starts at 0. ipv4 is the client's family.
//
// AnswerQuery is safe for concurrent use, waits for no source and allocates
// nothing. PrepareStreams must have been called.
func (f *Server) AnswerQuery(hint *uint32, query, buf []byte, ipv4 bool) (reply []byte, ok bool) {
	w := f.Borrow(hint)
	defer w.Mu.Unlock()
	now := f.Now()
	reply, q, why := f.Answer(w, query, buf, now)
	if why != meters.Understood {
		w.CountDecline(why)
		return nil, false
	}
	if q.Zone.Counted {
		w.CountQuery(&q.Zone.Zone, &q.Q, len(query), ipv4)
		w.CountDuration(f.Now().Sub(now))
	}
	return reply, true
}
