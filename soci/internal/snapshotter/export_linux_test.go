package snapshotter

import "time"

// Expire is expire.
func (s *Snapshotter) Expire(now time.Time) { s.expire(now) }
