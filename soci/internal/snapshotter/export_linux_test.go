package snapshotter

import "time"

// Expire exports expire.
func (s *Snapshotter) Expire(now time.Time) { s.expire(now) }
