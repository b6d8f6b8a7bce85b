package posix

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMain(m *testing.M) {
	if !ServeLocker() {
		m.Run() // the process ends with its result
	}
}

// TestSuiteHoldsOnLocalFileSystem runs the suite where it must pass: only then
// may it accuse a mount (test/e2e).
func TestSuiteHoldsOnLocalFileSystem(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // other users have to get there
	Run(t, dir)
}
