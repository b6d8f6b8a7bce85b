package e2e

import (
	"path/filepath"
	"testing"

	"dfs/test/posix"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

func TestPosixSuite(t *testing.T) {
	posix.Run(t, folder(t))
}

// notYet are cases of go-fuse's suite for calls that dfs refuses (docs/posix.md);
// our own suite checks that the refusal is clean.
var notYet = map[string]string{
	"FcntlFlockLocksFile": "wants a POSIX lock to exclude another descriptor of the same process, which POSIX says it does not; go-fuse leaves it out too",
}

func TestGoFusePosixSuite(t *testing.T) {
	dir := folder(t)
	for name, run := range posixtest.All {
		if _, ok := notYet[name]; ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			sub := filepath.Join(dir, name)
			mkdir(t, sub)
			run(t, sub)
		})
	}
}
