package fuse

import (
	"strings"
	"sync"

	"dfs"
)

// SQLite's WAL mode keeps an index of the log in a file DATABASE-shm that all who use the
// database have mapped, and changes it without telling anybody. A mapping shows what
// other mounts have stored too late for that, and the database would be damaged. So who
// has a lock of bytes of such a file, as everybody has who uses the index, keeps other
// mounts from any: there the database is busy as long as it is used here.

// walIndexSuffix is how the names of such files end (https://www.sqlite.org/walformat.html).
const walIndexSuffix = "-shm"

// flagWALIndex marks such a file among the flags of an open one, in the ledger.
const flagWALIndex = 1 << 31

// walIndexes is those that the kernel knows, each with how often it was told.
type walIndexes struct {
	mu   sync.Mutex
	told map[dfs.Ino]uint64 // +checklocks:mu
}

// called notes a name that the kernel is about to be told of.
func (fs *fileSystem) called(name string, a *dfs.Attr) {
	if !a.IsFile() || !strings.HasSuffix(name, walIndexSuffix) {
		return
	}
	w := &fs.walIndexes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told == nil {
		w.told = map[dfs.Ino]uint64{}
	}
	w.told[a.Ino]++
}

// forget notes that the kernel has forgotten so many times that it was told.
func (w *walIndexes) forget(ino dfs.Ino, times uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if told := w.told[ino]; told > times {
		w.told[ino] = told - times
	} else {
		delete(w.told, ino)
	}
}

func (w *walIndexes) has(ino dfs.Ino) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told[ino] > 0
}
