package tarfile

import "errors"

var (
	// ErrFormat is the error of a malformed archive.
	ErrFormat = errors.New("bad archive")
	// ErrLimit is the error of an archive that exceeds a bound on its size.
	ErrLimit = errors.New("limit exceeded")
)

// Shorten cuts the middle out of a name that is too long for a one-line
// message: a hostile archive may have names of 1 MiB.
func Shorten(name string) string {
	const most = 120 // bytes: enough to recognise an entry, short enough for one line
	if len(name) <= most {
		return name
	}
	return name[:most/2] + "..." + name[len(name)-most/2:]
}
