package fuse

import (
	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Places in a listing, as lseek(2) and telldir(3) see them: 0 is before ".", and
// the place after an entry is its cookie, which the masters keep above these two.
const (
	afterDot    = 1
	afterDotDot = 2
)

// Bytes that one entry takes at least in the kernel's buffer, with a name of up
// to 8 bytes, and what READDIRPLUS adds to it.
const (
	direntBytes     = 32
	direntPlusBytes = 128
	direntsMax      = 4096 // entries asked for at once
)

// ReadDir lists names, types and inode numbers.
func (fs *fileSystem) ReadDir(cancel <-chan struct{}, input *gofuse.ReadIn, out *gofuse.DirEntryList) (status gofuse.Status) {
	r := fs.begin(opReadDir, cancel, &input.InHeader)
	defer r.end(&status)
	return fs.readDir(r, input, false, func(e gofuse.DirEntry, _ *dfs.Attr) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus lists with attributes. The kernel asks for it as long as programs
// look at what they list.
func (fs *fileSystem) ReadDirPlus(cancel <-chan struct{}, input *gofuse.ReadIn, out *gofuse.DirEntryList) (status gofuse.Status) {
	r := fs.begin(opReadDirPlus, cancel, &input.InHeader)
	defer r.end(&status)
	return fs.readDir(r, input, true, func(e gofuse.DirEntry, attr *dfs.Attr) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if attr != nil && attr.Ino != 0 { // "." and ".." stay without: the kernel skips their node 0
			fs.called(e.Name, attr)
			fs.fillEntry(entry, fs.ino(input.NodeId), attr)
		}
		return true
	})
}

// readDir fills the kernel's buffer from the place it names. add says when the
// buffer is full.
func (fs *fileSystem) readDir(r *request, input *gofuse.ReadIn, plus bool, add func(gofuse.DirEntry, *dfs.Attr) bool) gofuse.Status {
	h := fs.dir(input.Fh)
	if h == nil {
		return gofuse.EBADF
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ino := fs.ino(input.NodeId)
	place := input.Offset
	limit := int(input.Size) / direntBytes
	if plus {
		limit = int(input.Size) / (direntBytes + direntPlusBytes)
	}
	limit = max(1, min(limit, direntsMax))
	// Attributes are of the moment when they were listed. Kept for a later request
	// they could take back a size that a write has changed since.
	if place <= afterDotDot || place != h.at || plus {
		h.ahead, h.end = nil, false
	}
	if len(h.ahead) == 0 && !h.end {
		if err := fs.fillAhead(r, h, input, ino, place, limit, plus); err != nil {
			return r.status(err)
		}
	}
	if place < afterDot {
		if !add(gofuse.DirEntry{Name: ".", Ino: uint64(ino), Mode: dfs.TypeDir, Off: afterDot}, nil) {
			return gofuse.OK
		}
	}
	if place < afterDotDot {
		if !add(gofuse.DirEntry{Name: "..", Ino: uint64(h.parent), Mode: dfs.TypeDir, Off: afterDotDot}, nil) {
			return gofuse.OK
		}
	}
	for n := 0; ; n++ {
		if len(h.ahead) == 0 {
			// A full buffer saves the kernel a request, but what has been put in it has
			// to be told before a failure.
			if h.end || n > 0 && plus {
				return gofuse.OK
			}
			if err := fs.fillAhead(r, h, input, ino, h.at, limit, plus); err != nil {
				if n > 0 {
					return gofuse.OK
				}
				return r.status(err)
			}
			if len(h.ahead) == 0 {
				return gofuse.OK
			}
		}
		e := &h.ahead[0]
		if !add(gofuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Type, Off: e.Cookie}, &e.Attr) {
			return gofuse.OK
		}
		h.at = e.Cookie
		h.ahead = h.ahead[1:]
	}
}

// fillAhead lists entries after a place. +checklocks:h.mu
func (fs *fileSystem) fillAhead(r *request, h *dirHandle, input *gofuse.ReadIn, ino dfs.Ino, place uint64, limit int, plus bool) error {
	cookie := place
	if place <= afterDotDot {
		cookie = 0
	}
	part, err := fs.client.ReadDir(r, fs.cred(&input.InHeader), ino, cookie, limit, plus)
	if err != nil {
		return err
	}
	h.ahead, h.at, h.end, h.parent = part.Entries, place, part.End, part.Parent
	return nil
}
