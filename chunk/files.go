package chunk

import (
	"container/list"
	"os"
	"sync"

	"dfs/internal/disk"
)

// files bounds how many fragment files are open: of those that nobody uses, the one
// that was used longest ago is closed first.
type files struct {
	max int

	mu   sync.Mutex
	idle list.List // +checklocks:mu — of *fragment, open and unused, the front is the oldest
	open int       // +checklocks:mu
}

// handle is the part of a fragment that files.mu guards.
type handle struct {
	file disk.File
	refs int
	elem *list.Element // in files.idle
	gone bool          // close it when the last one releases it
}

// acquire opens the fragment's file if need be, and keeps it open until release. It
// is opened without the lock, so that one slow disk does not stop the others.
func (f *files) acquire(c *fragment) (disk.File, error) {
	if file := f.use(c, nil); file != nil {
		return file, nil
	}
	file, err := c.volume.fs.OpenFile(c.path(), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	return f.use(c, file), nil
}

// use takes a reference to the fragment's open file; if it has none, file becomes
// it, and with no file the answer is nil. A file that is not needed is closed.
func (f *files) use(c *fragment, file disk.File) disk.File {
	var extra []disk.File
	f.mu.Lock()
	h := &c.handle
	switch {
	case h.file != nil && file != nil:
		extra = append(extra, file)
	case h.file == nil && file != nil:
		h.file = file
		f.open++
		extra = f.evictLocked(extra)
	}
	if h.file != nil {
		if h.elem != nil {
			f.idle.Remove(h.elem)
			h.elem = nil
		}
		h.refs++
	}
	file = h.file
	f.mu.Unlock()
	closeAll(extra)
	return file
}

// release ends what acquire began.
func (f *files) release(c *fragment) {
	var extra []disk.File
	f.mu.Lock()
	h := &c.handle
	if h.refs--; h.refs == 0 {
		h.elem = f.idle.PushBack(c)
		if h.gone {
			extra = append(extra, f.closeLocked(c))
		}
		extra = f.evictLocked(extra)
	}
	f.mu.Unlock()
	closeAll(extra)
}

// forget closes the fragment's file, as soon as nobody uses it.
func (f *files) forget(c *fragment) {
	f.mu.Lock()
	c.handle.gone = true
	var file disk.File
	if c.handle.elem != nil {
		file = f.closeLocked(c)
	}
	f.mu.Unlock()
	if file != nil {
		file.Close()
	}
}

// +checklocks:f.mu
func (f *files) evictLocked(extra []disk.File) []disk.File {
	for f.open > f.max && f.idle.Len() > 0 {
		extra = append(extra, f.closeLocked(f.idle.Front().Value.(*fragment)))
	}
	return extra
}

// closeLocked takes the file of an idle fragment away; the caller closes it.
//
// +checklocks:f.mu
func (f *files) closeLocked(c *fragment) disk.File {
	file := c.handle.file
	f.idle.Remove(c.handle.elem)
	c.handle.file, c.handle.elem = nil, nil
	f.open--
	return file
}

func (f *files) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// closeAll ignores errors: what had to last was synced before, and answered.
func closeAll(list []disk.File) {
	for _, file := range list {
		file.Close()
	}
}
