package testsum

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// canMakeNetNS makes a namespace on a thread of its own. The goroutine never
// unlocks the thread, so the runtime ends it and the namespace goes with it.
func canMakeNetNS() bool {
	ok := make(chan bool)
	go func() {
		runtime.LockOSThread()
		ok <- unix.Unshare(unix.CLONE_NEWNET) == nil
	}()
	return <-ok
}
