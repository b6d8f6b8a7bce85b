package fuse

import (
	"fmt"
	"os"
	"sync"
	"time"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// umountPatience is how long umount(8) waits for a cluster that does not answer.
const umountPatience = 500 * time.Millisecond

// lastKnown is what umount(8) is told about the mount when the cluster is silent.
// It calls stat(2) and statfs(2) on the mountpoint before it unmounts, looks at
// the type only, and would be kept from ending a dead mount by the deadness itself.
type lastKnown struct {
	mu   sync.Mutex
	root dfs.Attr         // +checklocks:mu
	stat gofuse.StatfsOut // +checklocks:mu
}

// orUmount cuts a request about the root short when it is umount(8) that waits and
// the cluster does not answer. stop ends the watch, and tells whether it was cut.
func (r *request) orUmount() (stop func() (cut bool)) {
	done := make(chan struct{})
	cut := false
	timer := time.AfterFunc(umountPatience, func() {
		defer close(done)
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.pid)); err == nil && string(comm) == "umount\n" {
			cut = true
			r.stop()
		}
	})
	return func() bool {
		if !timer.Stop() {
			<-done
		}
		return cut
	}
}
